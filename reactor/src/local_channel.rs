//! Queues between the loop of a core and its procedures, or between two procedures.
//!
//! Both halves stay on one core: no atomics, no locks, `!Send`. A procedure never holds the core's
//! context or a queue pair across an await; what it wants submitted goes out through one bounded
//! queue and what completed comes back through another (ARCHITECTURE.md section 3). The loop uses
//! the `try_` forms, which never wait; a task uses the futures.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use thiserror::Error;

/// The most items that a queue may be made for.
pub const CAPACITY_ITEMS_MAX: usize = 1 << 16;

/// Why an item was not taken. It is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TrySendError<T> {
    /// The queue holds its capacity.
    #[error("the local queue is full")]
    Full(T),
    /// The receiver was dropped.
    #[error("the receiver of the local queue is gone")]
    Closed(T),
}

/// The receiver was dropped; the item is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the receiver of the local queue is gone")]
pub struct SendError<T>(pub T);

#[derive(Debug)]
struct Shared<T> {
    items: VecDeque<T>,
    capacity_items: usize,
    /// The task that waits for an item.
    receiver_waker: Option<Waker>,
    /// The task that waits for room.
    sender_waker: Option<Waker>,
    sender_gone: bool,
    receiver_gone: bool,
}

/// Makes a queue for `capacity_items` items. Its memory is allocated here.
///
/// # Panics
///
/// When the capacity is zero or above `CAPACITY_ITEMS_MAX`.
pub fn queue<T>(capacity_items: usize) -> (LocalSender<T>, LocalReceiver<T>) {
    assert!(
        (1..=CAPACITY_ITEMS_MAX).contains(&capacity_items),
        "capacity {capacity_items} is not from 1 to {CAPACITY_ITEMS_MAX}"
    );
    let shared = Rc::new(RefCell::new(Shared {
        items: VecDeque::with_capacity(capacity_items),
        capacity_items,
        receiver_waker: None,
        sender_waker: None,
        sender_gone: false,
        receiver_gone: false,
    }));
    (LocalSender { shared: Rc::clone(&shared) }, LocalReceiver { shared })
}

/// Makes a channel for a single item: the answer to one request.
pub fn oneshot<T>() -> (OneshotSender<T>, OneshotReceiver<T>) {
    let (sender, receiver) = queue(1);
    (OneshotSender(sender), OneshotReceiver(receiver))
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// The half that sends. One task at a time may wait for room.
pub struct LocalSender<T> {
    shared: Rc<RefCell<Shared<T>>>,
}

impl<T> LocalSender<T> {
    /// Queues an item and wakes the receiving task. Never waits.
    ///
    /// # Errors
    ///
    /// `Full`, or `Closed` when nobody will receive it; both give the item back.
    pub fn try_send(&mut self, item: T) -> Result<(), TrySendError<T>> {
        let mut shared = self.shared.borrow_mut();
        if shared.receiver_gone {
            return Err(TrySendError::Closed(item));
        }
        if shared.items.len() == shared.capacity_items {
            return Err(TrySendError::Full(item));
        }
        shared.items.push_back(item);
        let receiver_waker = shared.receiver_waker.take();
        drop(shared);
        wake(receiver_waker);
        Ok(())
    }

    /// Queues an item, waiting for room.
    ///
    /// # Errors
    ///
    /// When the receiver was dropped; the item is given back.
    pub fn send(&mut self, item: T) -> impl Future<Output = Result<(), SendError<T>>> {
        let mut item = Some(item);
        std::future::poll_fn(move |context| {
            let taken = item.take().expect("the future is not polled after it is ready");
            match self.try_send(taken) {
                Ok(()) => Poll::Ready(Ok(())),
                Err(TrySendError::Closed(back)) => Poll::Ready(Err(SendError(back))),
                Err(TrySendError::Full(back)) => {
                    item = Some(back);
                    self.shared.borrow_mut().sender_waker = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
    }

    /// How many more items the queue takes now.
    pub fn free_items(&self) -> usize {
        let shared = self.shared.borrow();
        shared.capacity_items - shared.items.len()
    }

    /// Whether the receiver was dropped.
    pub fn is_closed(&self) -> bool {
        self.shared.borrow().receiver_gone
    }
}

impl<T> Drop for LocalSender<T> {
    fn drop(&mut self) {
        let mut shared = self.shared.borrow_mut();
        shared.sender_gone = true;
        let receiver_waker = shared.receiver_waker.take();
        drop(shared);
        wake(receiver_waker);
    }
}

impl<T> fmt::Debug for LocalSender<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("LocalSender").field("free_items", &self.free_items()).finish()
    }
}

/// The half that receives. One task at a time may wait for an item.
pub struct LocalReceiver<T> {
    shared: Rc<RefCell<Shared<T>>>,
}

impl<T> LocalReceiver<T> {
    /// Takes the oldest item, if there is one, and wakes a task that waits for room.
    pub fn try_recv(&mut self) -> Option<T> {
        let mut shared = self.shared.borrow_mut();
        let item = shared.items.pop_front()?;
        let sender_waker = shared.sender_waker.take();
        drop(shared);
        wake(sender_waker);
        Some(item)
    }

    /// Takes the oldest item, waiting for one. `None` once the sender was dropped and all it sent
    /// has been received.
    pub fn recv(&mut self) -> impl Future<Output = Option<T>> {
        std::future::poll_fn(|context| self.poll_recv(context))
    }

    /// How many items wait.
    pub fn len(&self) -> usize {
        self.shared.borrow().items.len()
    }

    /// Whether no item waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the sender was dropped. Items may still wait.
    pub fn is_closed(&self) -> bool {
        self.shared.borrow().sender_gone
    }

    fn poll_recv(&mut self, context: &mut Context<'_>) -> Poll<Option<T>> {
        if let Some(item) = self.try_recv() {
            return Poll::Ready(Some(item));
        }
        let mut shared = self.shared.borrow_mut();
        if shared.sender_gone {
            return Poll::Ready(None);
        }
        shared.receiver_waker = Some(context.waker().clone());
        Poll::Pending
    }
}

impl<T> Drop for LocalReceiver<T> {
    /// Drops what waits: nobody will receive it.
    fn drop(&mut self) {
        let mut shared = self.shared.borrow_mut();
        shared.receiver_gone = true;
        let items = std::mem::take(&mut shared.items);
        let sender_waker = shared.sender_waker.take();
        drop(shared);
        // After the borrow: an item's own drop may use the channel.
        drop(items);
        wake(sender_waker);
    }
}

impl<T> fmt::Debug for LocalReceiver<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("LocalReceiver").field("len", &self.len()).finish()
    }
}

/// Sends the one item.
#[derive(Debug)]
pub struct OneshotSender<T>(LocalSender<T>);

impl<T> OneshotSender<T> {
    /// Sends the item and wakes the receiving task.
    ///
    /// # Errors
    ///
    /// When the receiver was dropped; the item is given back.
    pub fn send(mut self, item: T) -> Result<(), SendError<T>> {
        self.0.try_send(item).map_err(|error| match error {
            TrySendError::Closed(back) => SendError(back),
            TrySendError::Full(_) => unreachable!("a sender of one item sends once"),
        })
    }

    /// Whether the receiver was dropped, so that the work for the answer can be spared.
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

/// A future of the one item; `None` when the sender was dropped without sending.
#[derive(Debug)]
pub struct OneshotReceiver<T>(LocalReceiver<T>);

impl<T> OneshotReceiver<T> {
    /// Takes the item if it is there.
    pub fn try_recv(&mut self) -> Option<T> {
        self.0.try_recv()
    }
}

impl<T> Future for OneshotReceiver<T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll_recv(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wakes {
        fn count(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn waker() -> (Arc<Wakes>, Waker) {
        let wakes = Arc::new(Wakes::default());
        (Arc::clone(&wakes), Waker::from(wakes))
    }

    #[test]
    fn a_queue_takes_its_capacity_and_refuses_one_more() {
        let (mut sender, mut receiver) = queue(2);
        assert_eq!(sender.free_items(), 2);
        sender.try_send(1).unwrap();
        sender.try_send(2).unwrap();
        assert_eq!(sender.try_send(3), Err(TrySendError::Full(3)));
        assert_eq!(receiver.len(), 2);
        assert_eq!(receiver.try_recv(), Some(1));
        sender.try_send(3).unwrap();
        assert_eq!(receiver.try_recv(), Some(2));
        assert_eq!(receiver.try_recv(), Some(3));
        assert_eq!(receiver.try_recv(), None);
        assert!(receiver.is_empty());
    }

    #[test]
    fn the_largest_queue_can_be_made() {
        assert_eq!(queue::<u8>(CAPACITY_ITEMS_MAX).0.free_items(), CAPACITY_ITEMS_MAX);
    }

    #[test]
    #[should_panic(expected = "is not from 1 to")]
    fn a_queue_above_the_largest_is_refused() {
        queue::<u8>(CAPACITY_ITEMS_MAX + 1);
    }

    #[test]
    #[should_panic(expected = "is not from 1 to")]
    fn a_queue_of_none_is_refused() {
        queue::<u8>(0);
    }

    #[test]
    fn a_task_that_waits_for_an_item_is_woken_by_it() {
        let (wakes, waker) = waker();
        let mut context = Context::from_waker(&waker);
        let (mut sender, mut receiver) = queue(1);
        let mut wait = pin!(receiver.recv());
        assert_eq!(wait.as_mut().poll(&mut context), Poll::Pending);
        assert_eq!(wakes.count(), 0);
        sender.try_send(7).unwrap();
        assert_eq!(wakes.count(), 1);
        assert_eq!(wait.as_mut().poll(&mut context), Poll::Ready(Some(7)));
    }

    #[test]
    fn a_task_that_waits_for_room_is_woken_by_it() {
        let (wakes, waker) = waker();
        let mut context = Context::from_waker(&waker);
        let (mut sender, mut receiver) = queue(1);
        sender.try_send(1).unwrap();
        let mut wait = pin!(sender.send(2));
        assert_eq!(wait.as_mut().poll(&mut context), Poll::Pending);
        assert_eq!(receiver.try_recv(), Some(1));
        assert_eq!(wakes.count(), 1);
        assert_eq!(wait.as_mut().poll(&mut context), Poll::Ready(Ok(())));
        assert_eq!(receiver.try_recv(), Some(2));
    }

    #[test]
    fn what_a_dropped_sender_sent_is_received_before_the_end() {
        let (wakes, waker) = waker();
        let mut context = Context::from_waker(&waker);
        let (mut sender, mut receiver) = queue(2);
        assert_eq!(receiver.poll_recv(&mut context), Poll::Pending);
        sender.try_send(1).unwrap();
        assert_eq!(receiver.poll_recv(&mut context), Poll::Ready(Some(1)));
        assert_eq!(receiver.poll_recv(&mut context), Poll::Pending);
        sender.try_send(2).unwrap();
        drop(sender);
        assert_eq!(wakes.count(), 2);
        assert!(receiver.is_closed());
        assert_eq!(receiver.poll_recv(&mut context), Poll::Ready(Some(2)));
        assert_eq!(receiver.poll_recv(&mut context), Poll::Ready(None));
    }

    #[test]
    fn a_sender_learns_that_nobody_receives() {
        let (wakes, waker) = waker();
        let mut context = Context::from_waker(&waker);
        let witness = Rc::new(());
        let (mut sender, receiver) = queue(1);
        sender.try_send(Rc::clone(&witness)).unwrap();
        {
            let mut wait = pin!(sender.send(Rc::clone(&witness)));
            assert!(wait.as_mut().poll(&mut context).is_pending());
            drop(receiver);
            assert_eq!(wakes.count(), 1);
            assert_eq!(Rc::strong_count(&witness), 2, "what waited was dropped");
            assert!(matches!(wait.as_mut().poll(&mut context), Poll::Ready(Err(SendError(_)))));
        }
        assert!(sender.is_closed());
        assert!(matches!(sender.try_send(witness), Err(TrySendError::Closed(_))));
    }

    #[test]
    fn a_oneshot_delivers_or_tells_that_it_will_not() {
        let (_wakes, waker) = waker();
        let mut context = Context::from_waker(&waker);
        let (sender, mut receiver) = oneshot();
        assert_eq!(receiver.try_recv(), None);
        assert_eq!(Pin::new(&mut receiver).poll(&mut context), Poll::Pending);
        assert!(!sender.is_closed());
        sender.send(5).unwrap();
        assert_eq!(Pin::new(&mut receiver).poll(&mut context), Poll::Ready(Some(5)));

        let (sender, mut receiver) = oneshot::<u8>();
        drop(sender);
        assert_eq!(Pin::new(&mut receiver).poll(&mut context), Poll::Ready(None));

        let (sender, receiver) = oneshot();
        drop(receiver);
        assert!(sender.is_closed());
        assert_eq!(sender.send(5), Err(SendError(5)));
    }
}
