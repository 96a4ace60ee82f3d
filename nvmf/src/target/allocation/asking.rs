//! From a Get LBA Status to its answer: the request keeps its slot while its device is asked.

use std::sync::Arc;

use bdev::allocation::{Allocation, Extent};
use bdev::{Lba, Status};
use reactor::Cx;

use super::command;
use super::looks::{Asker, Ended, NotBegun};
use crate::target::connection::Connection;
use crate::target::core::TargetCore;
use crate::target::message::RequestId;
use crate::target::namespace::NamespaceId;
use crate::target::receive::Step;
use crate::target::request::{Payload, RequestState, Transfer};

impl Connection {
    /// Asks the device of a namespace which of these blocks are allocated.
    pub(in crate::target) fn ask_allocation(
        &mut self,
        step: &mut Step<'_>,
        slot: u16,
        id: NamespaceId,
        extent: Extent,
    ) {
        let queue = self.queue.as_ref().expect("an admin command has its queue");
        let description = Arc::clone(&step.core.description);
        let subsystem = description.subsystems.get(&queue.controller.subsystem);
        let Some(namespace) = subsystem.and_then(|subsystem| subsystem.namespace(id)) else {
            let gone = Status::INVALID_NAMESPACE_OR_FORMAT.with_do_not_retry();
            return self.fail(step, slot, gone);
        };
        let own = &mut self.requests[usize::from(slot)];
        let Transfer::ToHost(len_bytes) = own.plan.transfer else {
            unreachable!("planned with room for a list");
        };
        let extents_max = command::extents_max(len_bytes as usize);
        if extents_max == 0 {
            let nothing = Allocation { extents: Vec::new(), looked_to: extent.lba };
            return self.answer_allocation(step, slot, &nothing, extent.end());
        }
        let request = RequestId { slot, generation: own.generation };
        let asker = Asker { connection: step.id, request };
        let range = extent.lba..extent.end();
        let now = step.cx.now();
        let begun = step.core.looks.begin(&namespace.allocation, asker, (range, extents_max), now);
        match begun {
            Ok(()) => own.state = RequestState::Asking,
            Err(NotBegun::Busy) => self.fail(step, slot, Status::COMMAND_INTERRUPTED),
            Err(NotBegun::Unknown) => {
                self.fail(step, slot, Status::INVALID_OPCODE.with_do_not_retry());
            }
        }
    }

    fn answer_allocation(&mut self, step: &mut Step<'_>, slot: u16, found: &Allocation, end: Lba) {
        let request = &mut self.requests[usize::from(slot)];
        let (Some(buffer), Transfer::ToHost(len_bytes)) =
            (&mut request.buffer, request.plan.transfer)
        else {
            unreachable!("planned with room for a list");
        };
        let room = &mut buffer.bytes_mut()[..len_bytes as usize];
        command::write_list(found, end, room);
        request.payload = Payload::Buffer(len_bytes);
        self.complete_read(step, slot, 0);
    }
}

/// Looks that end in one pass of a core: each is some tens of microseconds when it is made here.
const LOOKS_PER_PASS: usize = 4;

impl TargetCore {
    /// Goes on with looks, while there are any; returns how much work it was.
    #[cold]
    pub(in crate::target) fn take_looks(&mut self, cx: &mut Cx) -> usize {
        let work = usize::from(self.state.looks.is_made_here());
        for count in 0..LOOKS_PER_PASS {
            let Some(ended) = self.state.looks.next() else { return work + count };
            self.end_look(cx, &ended);
        }
        work + LOOKS_PER_PASS
    }

    /// Answers who has waited too long.
    pub(in crate::target) fn expire_looks(&mut self, cx: &mut Cx) {
        for ended in self.state.looks.expire(cx.now()) {
            self.end_look(cx, &ended);
        }
    }

    /// Answers whatever is left of who asked.
    fn end_look(&mut self, cx: &mut Cx, ended: &Ended) {
        let Ended { asker: Asker { connection, request }, end, found } = ended;
        self.with(cx, *connection, |one, step, _| {
            let is_asking = one.requests.get(usize::from(request.slot)).is_some_and(|own| {
                own.state == RequestState::Asking && own.generation == request.generation
            });
            if !is_asking || !one.is_open() {
                return;
            }
            match found {
                Some(Ok(found)) => one.answer_allocation(step, request.slot, found, *end),
                // The device may answer another time.
                Some(Err(_)) => one.fail(step, request.slot, Status::INTERNAL_ERROR),
                None => one.fail(step, request.slot, Status::COMMAND_INTERRUPTED),
            }
        });
    }
}
