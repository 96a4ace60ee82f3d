//! What queue pairs that were dropped have left behind on their core: socket keys and buffers.
//!
//! A queue pair is dropped without its core's context, which alone can take them back; the next
//! one that is opened or polled on the core gives them back.

use std::cell::RefCell;
use std::rc::Rc;

use reactor::Cx;
use reactor::dma::DmaBuffer;

use super::super::queue::Remains;

/// One a core, in its device table.
#[derive(Clone, Debug, Default)]
pub(super) struct Attic(Rc<RefCell<Vec<Left>>>);

/// What one queue pair has left.
#[derive(Debug)]
struct Left {
    remains: Option<Remains>,
    data: Option<DmaBuffer>,
}

impl Attic {
    /// That of the core, empty now.
    pub fn of(cx: &mut Cx) -> Attic {
        let attic = match cx.devices.get::<Attic>() {
            Some(attic) => attic.clone(),
            None => {
                let attic = Attic::default();
                cx.devices.insert(attic.clone());
                attic
            }
        };
        attic.clear(cx);
        attic
    }

    /// Puts something in.
    pub fn leave(&self, remains: Option<Remains>, data: Option<DmaBuffer>) {
        self.0.borrow_mut().push(Left { remains, data });
    }

    /// Gives all of it back.
    pub fn clear(&self, cx: &mut Cx) {
        for left in self.0.borrow_mut().drain(..) {
            if let Some(remains) = left.remains {
                remains.give_back(cx);
            }
            if let Some(data) = left.data {
                cx.dma.give(data);
            }
        }
    }
}
