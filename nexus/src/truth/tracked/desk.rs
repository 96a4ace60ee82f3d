//! The label of one child: reading, promising, writing, and asking whether it still answers.
//!
//! One a child, owned by [`super::Tracked`], on the home core. Does one job with the label at a
//! time; flushes go beside it. A child that may be opened elsewhere too ([`Fence::Polled`]) is
//! asked for its promise before each write, so that an older owner does not write over a newer
//! one's.

use std::sync::Arc;

use bdev::session::Sessions;
use bdev::{BlockDevice, Completion};
use reactor::{Cx, Nanos, Wake};
use uuid::Uuid;

use super::lane::{LabelIo, Lane, Page, Place, Progress};
use crate::child::{ChildIndex, FaultReason};
use crate::truth::ControlIo;
use crate::truth::assembly::Seen;
use crate::truth::label::store::{Damage, LabelError, LabelStore, Plan};
use crate::truth::label::wire::PAGE_BYTES;
use crate::truth::label::{Cache, Label, PageAddress, Session};
use crate::truth::names::Promise;
use crate::truth::owner::{Answer, Flush};
use crate::truth::voter::Overtaken;

/// What keeps an older owner from a child (replica-truth section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fence {
    /// It is open here and nowhere else: whoever had it is gone.
    Exclusive,
    /// Nothing but its label: an owner looks at its promise often enough, and a new one waits for
    /// that.
    Polled,
}

/// What a desk is to do with the label.
#[derive(Debug)]
enum Job {
    Learn,
    Claim {
        promise: Promise,
        /// Reads first, then writes the promise.
        is_promising: bool,
    },
    Write {
        flush: Flush,
        label: Arc<Label>,
        is_writing: bool,
    },
    Beat,
}

/// What has come of a job.
#[derive(Debug)]
pub(super) enum News {
    /// The label, or why there is none.
    Learned(Result<Box<Label>, LabelError>),
    /// To what the owner asked.
    Answer(Answer),
    /// It still promises what it did.
    Beaten,
    /// It takes another job: the rest of a write that was answered is done.
    Free,
    /// What had completed when the flush began is durable.
    Flushed,
    /// It does not answer, or fails. What was asked of it is lost.
    Lost(FaultReason),
}

/// What a read of the label came to.
enum Looked {
    Needs(Vec<Page>),
    Found(Box<LabelStore>, Vec<Damage>),
    None(LabelError),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Desk {
    pub name: String,
    pub blocks: u64,
    place: Place,
    pub fence: Fence,
    session: Session,
    sessions: Option<Arc<Sessions>>,
    /// Count of restarts that the session stands for.
    restarts: u64,
    has_named_run: bool,
    store: Option<LabelStore>,
    /// What a blank child gets when it is claimed.
    fresh: Option<Box<Label>>,
    job: Option<Job>,
    label: Lane,
    flush: Lane,
    /// Damage that was found, and is repaired with the next claim.
    pub damage: Vec<Damage>,
    /// When a child that was lost is asked again, and how long that was put off.
    pub retry_at: Option<Nanos>,
    pub retry_after: Nanos,
}

/// First pause before a lost child is asked again; doubled each time up to [`RETRY_MAX`].
pub const RETRY_MIN: Nanos = Nanos::from_millis(250);
/// Longest pause before a lost child is asked again.
pub const RETRY_MAX: Nanos = Nanos::from_secs(8);

const LABEL_LANE: u64 = 1;
const FLUSH_LANE: u64 = 2;

impl Desk {
    pub fn new(
        child: ChildIndex,
        name: &str,
        device: &dyn BlockDevice,
        boot: Uuid,
        fence: Fence,
    ) -> Desk {
        let geometry = device.geometry();
        let cache = if device.limits().volatile_cache { Cache::Volatile } else { Cache::Durable };
        let sessions = device.sessions();
        Desk {
            name: name.to_owned(),
            blocks: geometry.blocks,
            place: Place { child, block_bytes: geometry.block_bytes },
            fence,
            session: Session { boot, cache },
            restarts: sessions.as_ref().map_or(0, |sessions| sessions.restarts()),
            sessions,
            has_named_run: false,
            store: None,
            fresh: None,
            job: None,
            label: Lane::new(LABEL_LANE),
            flush: Lane::new(FLUSH_LANE),
            damage: Vec::new(),
            retry_at: None,
            retry_after: RETRY_MIN,
        }
    }

    pub fn block_bytes(&self) -> u32 {
        self.place.block_bytes
    }

    /// The run of its device.
    pub fn session(&self) -> Session {
        self.session
    }

    /// True when its device has started anew since it was opened here. The run is another one from
    /// then on, and what was known of the label is forgotten.
    pub fn has_restarted(&mut self, boot: impl FnOnce() -> Uuid) -> bool {
        let now = self.sessions.as_ref().map_or(0, |sessions| sessions.restarts());
        if now == self.restarts {
            return false;
        }
        self.restarts = now;
        let run = self.sessions.as_ref().and_then(|sessions| sessions.run());
        self.session.boot = run.unwrap_or_else(boot);
        true
    }

    /// Restarts of its device up to the run that the label is known of.
    pub fn restarts(&self) -> u64 {
        self.restarts
    }

    /// Names the run of a device that is not of this host's; one that does not say which it is may
    /// be another at every start here.
    pub fn name_run(&mut self, boot: impl FnOnce() -> Uuid) {
        if let (Some(sessions), false) = (&self.sessions, self.has_named_run) {
            self.session.boot = sessions.run().unwrap_or_else(boot);
            self.has_named_run = true;
        }
    }

    /// True while it does anything.
    pub fn is_busy(&self) -> bool {
        self.job.is_some() || !self.label.is_free() || !self.flush.is_free()
    }

    /// True when it takes a job with the label.
    pub fn is_free(&self) -> bool {
        self.job.is_none() && self.label.is_free()
    }

    /// True when a flush can begin.
    pub fn is_flush_free(&self) -> bool {
        self.flush.is_free()
    }

    /// True when it does nothing but wait for the end of what it has given up, if that.
    pub fn has_given_up(&self) -> bool {
        !self.label.is_running() && !self.flush.is_running()
    }

    /// When the present job with the label began.
    pub fn began_at(&self) -> Nanos {
        self.label.began_at
    }

    /// What a blank child gets with its first claim.
    pub fn set_fresh(&mut self, label: Label) {
        self.fresh = Some(Box::new(label));
    }

    fn begin(&mut self, now: Nanos, job: Job) {
        assert!(self.is_free(), "one job at a time");
        self.job = Some(job);
        self.label.start(now, vec![heads()], usize::MAX);
    }

    pub fn learn(&mut self, now: Nanos) {
        self.begin(now, Job::Learn);
    }

    pub fn claim(&mut self, now: Nanos, promise: Promise) {
        self.begin(now, Job::Claim { promise, is_promising: false });
    }

    pub fn beat(&mut self, now: Nanos) {
        self.begin(now, Job::Beat);
    }

    pub fn write(&mut self, now: Nanos, flush: Flush, label: Arc<Label>) {
        if self.fence == Fence::Polled {
            return self.begin(now, Job::Write { flush, label, is_writing: false });
        }
        assert!(self.is_free(), "one job at a time");
        self.job = Some(Job::Write { flush: Flush::No, label: label.clone(), is_writing: true });
        self.start_write(now, flush, label, Plan::default());
    }

    fn start_write(&mut self, now: Nanos, flush: Flush, label: Arc<Label>, first: Plan) {
        let store = self.store.as_mut().expect("only what was claimed is written");
        let plan = store.write(label);
        let mut batches = Vec::new();
        if flush == Flush::First {
            batches.push(vec![LabelIo::Flush]);
        }
        batches.extend(first.steps.into_iter().map(writes));
        let durable_after = batches.len() + plan.durable_after;
        batches.extend(plan.steps.into_iter().map(writes));
        self.label.start(now, batches, durable_after);
    }

    /// Begins a flush of the device.
    pub fn start_flush(&mut self, now: Nanos) {
        self.flush.start(now, vec![vec![LabelIo::Flush]], usize::MAX);
    }

    /// Gives up whatever it does; what is in flight ends first.
    pub fn give_up(&mut self, cx: &mut Cx, io: &mut dyn ControlIo) {
        (self.job, self.store) = (None, None);
        self.label.give_up(cx, io, self.place.child);
        self.flush.give_up(cx, io, self.place.child);
    }

    /// Puts off the next try.
    pub fn put_off(&mut self, now: Nanos) {
        self.retry_at = Some(now + self.retry_after);
        self.retry_after = Nanos((self.retry_after.0 * 2).min(RETRY_MAX.0));
    }

    pub fn completed(&mut self, cx: &mut Cx, completion: &Completion) {
        let taken = self.label.completed(cx, completion) || self.flush.completed(cx, completion);
        assert!(taken, "a completion has its I/O");
    }

    pub fn poll(&mut self, cx: &mut Cx, io: &mut dyn ControlIo) -> Option<News> {
        match self.flush.poll(cx, io, self.place) {
            Some(Progress::Failed(reason)) => return Some(self.lost(cx, io, reason)),
            Some(Progress::Ended | Progress::Reported) => return Some(News::Flushed),
            None => {}
        }
        loop {
            match self.label.poll(cx, io, self.place)? {
                Progress::Failed(reason) => return Some(self.lost(cx, io, reason)),
                progress => {
                    if let Some(news) = self.go_on(cx, progress) {
                        return Some(news);
                    }
                }
            }
        }
    }

    fn lost(&mut self, cx: &mut Cx, io: &mut dyn ControlIo, reason: FaultReason) -> News {
        self.give_up(cx, io);
        News::Lost(reason)
    }

    /// A part of the job is done.
    fn go_on(&mut self, cx: &mut Cx, progress: Progress) -> Option<News> {
        match self.job.take() {
            None => Some(News::Free),
            Some(Job::Write { is_writing: true, .. }) => Some(News::Answer(Answer::Written)),
            Some(Job::Claim { is_promising: true, .. }) => match progress {
                Progress::Reported => self.seen(),
                Progress::Ended | Progress::Failed(_) => unreachable!("it is reported first"),
            },
            Some(Job::Write { flush, label, .. }) => {
                if let Err(news) = self.promised(label.voter.promised) {
                    return Some(news);
                }
                self.job = Some(Job::Write { flush, label: label.clone(), is_writing: true });
                self.start_write(cx.now(), flush, label, Plan::default());
                None
            }
            Some(Job::Beat) => {
                let own = self.store.as_ref()?.label().voter.promised;
                Some(self.promised(own).err().unwrap_or(News::Beaten))
            }
            Some(job @ (Job::Learn | Job::Claim { .. })) => self.read_on(cx, job),
        }
    }

    fn seen(&self) -> Option<News> {
        let label = self.store.as_ref()?.label().clone();
        Some(News::Answer(Answer::Seen(Box::new(Seen { label, session: self.session }))))
    }

    /// What the heads that were read promise to, beside what this owner was promised.
    fn promised(&self, own: Promise) -> Result<(), News> {
        let page = |copy: usize| {
            let named = |(page, _): &&(Page, _)| *page == (PageAddress::Head, copy);
            self.label.pages.iter().find(named).map(|(_, bytes)| &**bytes)
        };
        let heads = page(0).zip(page(1)).map(|(zero, one)| LabelStore::promise_of([zero, one]));
        match heads {
            Some(Ok(promise)) if promise.generation > own.generation => {
                let promised = promise.generation;
                Err(News::Answer(Answer::Refused(Overtaken { promised })))
            }
            Some(Ok(_)) => Ok(()),
            Some(Err(_)) | None => Err(News::Lost(FaultReason::CantOpen)),
        }
    }

    /// Heads or maps were read: reads what is still missing, or ends.
    fn read_on(&mut self, cx: &mut Cx, job: Job) -> Option<News> {
        let looked = match look(&self.label.pages) {
            Looked::Needs(pages) => {
                self.job = Some(job);
                self.label.go_on(pages.into_iter().map(LabelIo::Read).collect());
                return None;
            }
            looked => looked,
        };
        match (job, looked) {
            (Job::Claim { promise, .. }, Looked::Found(store, damage)) => {
                self.promise(cx.now(), *store, damage, promise)
            }
            (Job::Claim { promise, .. }, Looked::None(LabelError::Absent))
                if self.fresh.is_some() =>
            {
                self.create(cx.now(), promise)
            }
            (Job::Claim { .. }, _) => Some(News::Lost(FaultReason::CantOpen)),
            (_, Looked::Found(store, damage)) => {
                self.damage = damage;
                Some(News::Learned(Ok(Box::new(store.label().clone()))))
            }
            (_, Looked::None(error)) => Some(News::Learned(Err(error))),
            (_, Looked::Needs(_)) => unreachable!("that went on reading"),
        }
    }

    fn promise(
        &mut self,
        now: Nanos,
        mut store: LabelStore,
        damage: Vec<Damage>,
        promise: Promise,
    ) -> Option<News> {
        let mut label = store.label().clone();
        if let Err(overtaken) = label.voter.promise(promise) {
            return Some(News::Answer(Answer::Refused(overtaken)));
        }
        let repairs = store.repair(&damage);
        self.damage = damage;
        self.store = Some(store);
        self.job = Some(Job::Claim { promise, is_promising: true });
        self.start_write(now, Flush::No, Arc::new(label), repairs);
        None
    }

    /// The first label of a blank child.
    fn create(&mut self, now: Nanos, promise: Promise) -> Option<News> {
        let mut label = *self.fresh.take()?;
        label.voter.promised = promise;
        let (store, plan) = LabelStore::create(label);
        self.store = Some(store);
        self.job = Some(Job::Claim { promise, is_promising: true });
        let batches: Vec<_> = plan.steps.into_iter().map(writes).collect();
        let all = batches.len();
        self.label.start(now, batches, all);
        None
    }

    pub fn wake(&self) -> Wake {
        self.label.wake().soonest(self.flush.wake())
    }
}

fn heads() -> Vec<LabelIo> {
    [0, 1].map(|copy| LabelIo::Read((PageAddress::Head, copy))).into()
}

fn writes(step: Vec<crate::truth::label::store::PageWrite>) -> Vec<LabelIo> {
    step.into_iter().map(LabelIo::Write).collect()
}

/// Makes a label of the pages that were read, or says which more it takes.
fn look(pages: &[(Page, Box<[u8; PAGE_BYTES]>)]) -> Looked {
    let mut missing = Vec::new();
    let loaded = LabelStore::load::<LabelError>(|page, copy| {
        let known = pages.iter().find(|(known, _)| *known == (page, copy));
        Ok(known.map_or_else(
            || {
                missing.push((page, copy));
                Box::new([0; PAGE_BYTES])
            },
            |(_, bytes)| bytes.clone(),
        ))
    });
    match loaded {
        _ if !missing.is_empty() => Looked::Needs(missing),
        Ok((store, damage)) => Looked::Found(Box::new(store), damage),
        Err(error) => Looked::None(error),
    }
}
