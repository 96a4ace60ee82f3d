//! What the devices of a core share there: the core's ring, say, which serves every file.
//!
//! Owned by [`crate::Cx`]. The reactor knows nothing of what is in it: a crate of devices puts in a
//! value of a type of its own, the first time that one is needed, and finds it by that type.

use std::any::Any;
use std::fmt;

/// One value of each type.
#[derive(Default)]
pub struct DeviceTable {
    entries: Vec<Box<dyn Any>>,
}

impl fmt::Debug for DeviceTable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("DeviceTable").field("entries", &self.entries.len()).finish()
    }
}

impl DeviceTable {
    /// The value of this type, if one was put in.
    pub fn get<T: Any>(&self) -> Option<&T> {
        self.entries.iter().find_map(|entry| entry.downcast_ref())
    }

    /// Puts in a value. Panics when there is one of its type. Slow path: allocates.
    pub fn insert<T: Any>(&mut self, value: T) {
        assert!(self.get::<T>().is_none(), "what a core shares is made once");
        self.entries.push(Box::new(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_has_a_value_of_its_own() {
        let mut table = DeviceTable::default();
        table.insert(7_u32);
        table.insert("seven");
        assert_eq!(table.get(), Some(&7_u32));
        assert_eq!(table.get(), Some(&"seven"));
        assert_eq!(table.get::<u64>(), None);
    }

    #[test]
    #[should_panic(expected = "made once")]
    fn a_second_value_of_a_type_is_a_bug() {
        let mut table = DeviceTable::default();
        table.insert(7_u32);
        table.insert(8_u32);
    }
}
