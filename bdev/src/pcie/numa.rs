//! Memory near a device: what is mapped inside [`near`] comes from the device's NUMA node, as far
//! as that has any.
//!
//! A preference of the calling thread, for the length of one call, on control threads. A machine of
//! one node, a kernel without them and a node without memory are no errors: the memory is then
//! where the kernel puts it. `set_mempolicy(2)`.

use std::fs;
use std::path::Path;

/// Number of a NUMA node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node(pub u32);

/// Nodes that a mask has room for.
const NODES_MAX: u32 = 1024;
const MASK_WORDS: usize = NODES_MAX as usize / 64;
/// Memory of the nodes in the mask, of others when they have none.
const PREFERRED: i32 = 1;

/// A thread's policy as the kernel has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Policy {
    mode: i32,
    mask: [u64; MASK_WORDS],
}

impl Policy {
    fn of_thread() -> Option<Policy> {
        let mut policy = Policy { mode: 0, mask: [0; MASK_WORDS] };
        // SAFETY: the kernel writes a number and a mask of as many bits as it is told of.
        let result = unsafe {
            libc::syscall(
                libc::SYS_get_mempolicy,
                &raw mut policy.mode,
                policy.mask.as_mut_ptr(),
                libc::c_ulong::from(NODES_MAX),
                std::ptr::null::<u8>(),
                0,
            )
        };
        (result == 0).then_some(policy)
    }

    fn preferring(Node(node): Node) -> Option<Policy> {
        let mut mask = [0; MASK_WORDS];
        *mask.get_mut(node as usize / 64)? |= 1 << (node % 64);
        Some(Policy { mode: PREFERRED, mask })
    }

    fn set(&self) -> bool {
        // The kernel looks at one bit less than it is told of.
        let bits = libc::c_ulong::from(NODES_MAX) + 1;
        let mask = if self.mask == [0; MASK_WORDS] { std::ptr::null() } else { self.mask.as_ptr() };
        // SAFETY: the kernel reads a mask of as many bits as it is told of, the last of which it
        // leaves out.
        unsafe { libc::syscall(libc::SYS_set_mempolicy, self.mode, mask, bits) == 0 }
    }
}

/// Calls `allocate`, whose memory comes from the node if that can be.
pub fn near<T>(node: Option<Node>, allocate: impl FnOnce() -> T) -> T {
    let wanted = node.and_then(Policy::preferring);
    let before = wanted.and_then(|_| Policy::of_thread());
    let (Some(wanted), Some(before)) = (wanted, before) else { return allocate() };
    if !wanted.set() {
        return allocate();
    }
    let result = allocate();
    // It was the thread's own a moment ago, so it cannot be refused.
    before.set();
    result
}

/// The node of the device that sysfs has at `device`; none where the kernel does not know.
pub fn of_device(device: &Path) -> Option<Node> {
    let text = fs::read_to_string(device.join("numa_node")).ok()?;
    // It writes -1 for what it does not know.
    text.trim().parse().ok().map(Node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preference_holds_for_one_call_and_no_longer() {
        let Some(before) = Policy::of_thread() else { return };
        let inside = near(Some(Node(0)), Policy::of_thread);
        assert_eq!(inside, Policy::preferring(Node(0)));
        assert_eq!(Policy::of_thread(), Some(before));
        assert_eq!(near(None, Policy::of_thread), Some(before));
    }

    #[test]
    fn a_node_that_is_not_there_is_no_error() {
        for node in [NODES_MAX - 1, NODES_MAX, u32::MAX] {
            assert_eq!(near(Some(Node(node)), || 7), 7);
        }
    }

    #[test]
    fn a_device_names_its_node_or_none() {
        let folder = format!("numa-node-{}", std::process::id());
        let device = std::env::current_exe().unwrap().with_file_name(folder);
        fs::create_dir_all(&device).unwrap();
        for (text, node) in [("1\n", Some(Node(1))), ("-1\n", None), ("\n", None)] {
            fs::write(device.join("numa_node"), text).unwrap();
            assert_eq!(of_device(&device), node, "{text:?}");
        }
        fs::remove_dir_all(&device).unwrap();
        assert_eq!(of_device(&device), None);
    }
}
