//! The home core's part of a rebuild: it hands the truth's orders to the copier, tells the truth
//! what became of them, judges children that failed, and admits a target that is complete.
//!
//! A rebuild is the life of a target: it begins with [`Home::begin_target`], and is over when the
//! child is a member, or no target any more, whoever found that out.

use bdev::{BlockDevice, Status};
use reactor::{Cx, Nanos, Wake};

use super::Home;
use crate::child::{ChildIndex, ChildState, FaultReason};
use crate::config::ConfigError;
use crate::rebuild::{
    CopyEvent, Foreground, Job, JobStep, Moved, Obstacle, RebuildEnd, RebuildProgress,
    RebuildRecord, VerifyReport,
};
use crate::truth::CopyOrder;

/// When a region is tried again that no member could be read for.
const UNREADABLE_INTERVAL: Nanos = Nanos::from_millis(100);

impl Home {
    /// The rebuild under way.
    pub fn rebuild(&self) -> Option<RebuildProgress> {
        let job = self.rebuild.job.as_ref()?;
        let block_bytes = self.nexus.geometry().block_bytes;
        let progress = job.progress(self.rebuild.copier.moved(), block_bytes);
        Some(RebuildProgress { is_held_back: self.rebuild.pace.is_held_back(), ..progress })
    }

    /// Rebuilds that have ended, oldest first: the last [`crate::rebuild::HISTORY_MAX`] of them.
    pub fn rebuild_history(&self) -> impl Iterator<Item = &RebuildRecord> {
        self.rebuild.history.iter()
    }

    /// What was copied since this home was made: for rebuilds, and to make members equal after a
    /// crash.
    pub fn moved(&self) -> Moved {
        self.rebuild.copier.moved()
    }

    /// Gives up the rebuild of a child, which is out of sync as before. [`ConfigError::Busy`] when
    /// it is becoming a member already.
    pub fn stop_rebuild(&mut self, cx: &mut Cx, name: &str) -> Result<(), ConfigError> {
        let job = self.job_of(name)?;
        if job.step == JobStep::Admitting {
            return Err(ConfigError::Busy);
        }
        job.end = Some(RebuildEnd::Stopped);
        let child = job.child;
        self.fault(cx, name, FaultReason::OutOfSync)?;
        if let Some(known) = &mut self.children[child.get()] {
            known.comeback.hold();
        }
        Ok(())
    }

    /// Copies nothing for a child until [`Home::resume_rebuild`]; it stays a target.
    pub fn pause_rebuild(&mut self, name: &str) -> Result<(), ConfigError> {
        self.job_of(name)?.is_paused = true;
        self.rebuild.copier.pause();
        Ok(())
    }

    /// Goes on.
    pub fn resume_rebuild(&mut self, name: &str) -> Result<(), ConfigError> {
        self.job_of(name)?.is_paused = false;
        self.rebuild.copier.resume();
        Ok(())
    }

    /// Limits how fast is copied, in MiB a second, whatever hosts do; nothing for no limit.
    pub fn limit_rebuild(&mut self, cx: &Cx, limit_mib: Option<u32>) {
        let limit = limit_mib.map(|limit| u64::from(limit.max(1)) << 20);
        self.rebuild.pace.set_limit(cx.now(), limit);
    }

    /// Begins to compare all members with each other; see [`Home::verification`]. Hosts go on, and
    /// nothing is changed. [`ConfigError::Busy`] while another comparison goes on, or members are
    /// made equal after a crash.
    pub fn verify(&mut self) -> Result<(), ConfigError> {
        let is_pending = self.stops.unassembled || self.truth.pending().is_some();
        if is_pending || !self.rebuild.verifier.is_still() {
            return Err(ConfigError::Busy);
        }
        self.rebuild.verifier.begin(self.nexus.geometry().blocks);
        Ok(())
    }

    /// Gives up the comparison under way.
    pub fn stop_verify(&mut self) {
        self.rebuild.verifier.stop();
    }

    /// What the comparison under way, or the last one, has found.
    pub fn verification(&self) -> Option<&VerifyReport> {
        self.rebuild.verifier.report()
    }

    fn job_of(&mut self, name: &str) -> Result<&mut Job, ConfigError> {
        let child = self.find(name)?;
        let job = self.rebuild.job.as_mut().filter(|job| job.child == child);
        job.ok_or_else(|| ConfigError::NoRebuild { name: name.to_owned() })
    }

    /// A child is to become a target.
    pub(super) fn begin_job(&mut self, cx: &Cx, child: ChildIndex) {
        // Of an earlier one that ended since the last poll.
        self.judge_job(cx);
        let known = self.children[child.get()].as_ref().expect("a target is a child");
        let moved = self.rebuild.copier.moved();
        let job = Job::new(child, known.config.name.clone(), cx.now(), moved);
        self.rebuild.job = Some(job);
    }

    /// Goes on with what is to be copied; returns how much there was to do.
    pub(super) fn poll_rebuild(&mut self, cx: &mut Cx) -> usize {
        if self.rebuild.is_idle() {
            // Leaves the seat, where it still has it.
            return self.rebuild.copier.poll(cx, &mut self.rebuild.pace);
        }
        self.look_at_hosts(cx);
        self.judge_job(cx);
        self.take_orders(cx);
        let mut work = self.rebuild.copier.poll(cx, &mut self.rebuild.pace);
        for event in self.rebuild.copier.take_events() {
            work += 1;
            self.hear_copier(cx, event);
        }
        // The next step may have orders to take, which nothing else wakes this core for.
        let step = |home: &Home| home.rebuild.job.as_ref().map(|job| job.step);
        let before = step(self);
        self.go_on_with_job(cx);
        work += usize::from(step(self) != before);
        if self.stops.unassembled {
            self.rebuild.verifier.stop();
        }
        work + self.rebuild.verifier.poll(cx, &mut self.rebuild.pace)
    }

    /// When it must be polled next.
    pub(super) fn rebuild_wake(&self) -> Wake {
        let step = match self.rebuild.job.as_ref().map(|job| job.step) {
            Some(JobStep::Following(_)) => Wake::Now,
            _ => Wake::Never,
        };
        let retry = self.rebuild.retry_at.map_or(Wake::Never, Wake::At);
        let copies = self.rebuild.copier.wake(&self.rebuild.pace);
        let checks = self.rebuild.verifier.wake(&self.rebuild.pace);
        step.soonest(retry).soonest(copies).soonest(checks)
    }

    /// Makes descriptors fire; false when something is there already.
    pub(super) fn arm_rebuild(&mut self, cx: &mut Cx) -> bool {
        self.rebuild.copier.arm(cx) && self.rebuild.verifier.arm(cx)
    }

    fn look_at_hosts(&mut self, cx: &Cx) {
        if !self.rebuild.pace.is_due(cx.now()) {
            return;
        }
        let sum = std::cell::Cell::new(Foreground::default());
        self.nexus.all_users(|_, cell| {
            let (ended, time_ns, inflight) = cell.load();
            let mut seen = sum.get();
            seen.ended = seen.ended.wrapping_add(ended as u64);
            seen.time = Nanos(seen.time.0.wrapping_add(time_ns as u64));
            seen.inflight += inflight as u64;
            sum.set(seen);
            true
        });
        self.rebuild.pace.observe(cx.now(), sum.get());
    }

    /// Takes orders of the truth, as many as are gone on with at once.
    fn take_orders(&mut self, cx: &Cx) {
        if self.rebuild.retry_at.is_some_and(|at| cx.now() < at) {
            return;
        }
        self.rebuild.retry_at = None;
        let step = self.rebuild.job.as_ref().map(|job| job.step);
        if matches!(step, Some(JobStep::Preparing | JobStep::Following(_))) {
            return;
        }
        let geometry = self.nexus.geometry();
        let region_blocks = self.region_blocks();
        while self.rebuild.copier.wants_order() {
            let Some(order) = self.truth.next_copy() else {
                let is_over = !self.rebuild.copier.has_orders() && self.truth.copies_left() == 0;
                self.rebuild.may_have_copies = !is_over;
                return;
            };
            self.rebuild.accept(order, region_blocks, geometry.blocks);
        }
    }

    fn region_blocks(&self) -> u64 {
        self.truth.region_bytes() / u64::from(self.nexus.geometry().block_bytes)
    }

    fn hear_copier(&mut self, cx: &mut Cx, event: CopyEvent) {
        match event {
            CopyEvent::Over(order, Ok(())) => self.truth.copied(cx, order),
            CopyEvent::Over(order, Err(obstacle)) => self.not_copied(cx, order, obstacle),
            CopyEvent::ReceiverLost(child, reason) => self.lose_receiver(cx, child, reason),
            CopyEvent::SourceError(child) => {
                let known = self.children[child.get()].as_mut();
                if known.is_some_and(|known| known.errors.note(cx.now())) {
                    self.lose(cx, child, FaultReason::IoError);
                }
            }
            CopyEvent::SourceSilent(child) => self.lose(cx, child, FaultReason::TimedOut),
            CopyEvent::Flushed(child, status) => self.target_flushed(cx, child, status),
        }
    }

    fn not_copied(&mut self, cx: &mut Cx, order: CopyOrder, obstacle: Obstacle) {
        let blamed = match obstacle {
            Obstacle::Receiver(child, _) | Obstacle::Gone(child) => child,
            Obstacle::Unreadable | Obstacle::Ended => order.source,
        };
        self.truth.copy_failed(cx, order, blamed);
        if obstacle != Obstacle::Unreadable {
            return;
        }
        let Some(target) = order.to.intersection(self.nexus.view().targets).first() else {
            // Members must be made equal before a host is answered: it is tried until it succeeds.
            self.rebuild.retry_at = Some(cx.now() + UNREADABLE_INTERVAL);
            return;
        };
        if let Some(job) = &mut self.rebuild.job {
            job.end.get_or_insert(RebuildEnd::SourcesFailed);
        }
        self.lose(cx, target, FaultReason::RebuildFailed);
    }

    fn lose_receiver(&mut self, cx: &mut Cx, child: ChildIndex, reason: FaultReason) {
        if let Some(job) = self.rebuild.job.as_mut().filter(|job| job.child == child) {
            job.end.get_or_insert(RebuildEnd::TargetFailed(reason));
        }
        self.lose(cx, child, reason);
    }

    fn target_flushed(&mut self, cx: &mut Cx, child: ChildIndex, status: Status) {
        let job = self.rebuild.job.as_mut();
        let Some(job) = job.filter(|job| job.child == child && job.step == JobStep::Flushing)
        else {
            return;
        };
        if !status.is_success() {
            return self.lose_receiver(cx, child, FaultReason::IoError);
        }
        if self.truth.is_complete(child) {
            job.step = JobStep::Admitting;
            self.admit(child);
        } else {
            job.step = JobStep::Copying;
        }
    }

    /// Takes the rebuild a step further.
    fn go_on_with_job(&mut self, cx: &mut Cx) {
        self.judge_job(cx);
        let Some(job) = &self.rebuild.job else { return };
        let (child, step) = (job.child, job.step);
        let left = self.truth.copies_left().saturating_mul(self.region_blocks());
        let left = left.saturating_sub(self.rebuild.copier.done_blocks());
        let next = match step {
            JobStep::Preparing if self.is_target(child) => {
                JobStep::Following(self.nexus.published.version())
            }
            JobStep::Following(version) if self.have_followed(version) => JobStep::Copying,
            JobStep::Copying if self.is_copied(child) => {
                self.rebuild.copier.flush(child);
                JobStep::Flushing
            }
            other => other,
        };
        let volume_blocks = self.nexus.geometry().blocks;
        let moved = self.rebuild.copier.moved();
        let job = self.rebuild.job.as_mut().expect("it was just there");
        job.step = next;
        match (step, next) {
            (JobStep::Following(_), JobStep::Copying) => job.begin(cx.now(), left, volume_blocks),
            (JobStep::Preparing | JobStep::Following(_), _) => {}
            _ => job.note(cx.now(), left, moved),
        }
    }

    fn is_copied(&self, child: ChildIndex) -> bool {
        !self.rebuild.copier.has_orders() && self.truth.is_complete(child)
    }

    /// Ends the rebuild whose child is a member now, or no target any more.
    fn judge_job(&mut self, cx: &Cx) {
        let Some(job) = &self.rebuild.job else { return };
        let child = job.child;
        let view = self.nexus.view();
        let state = self.children[child.get()].as_ref().map(|known| known.state);
        let end = match state {
            _ if view.members.contains(child) => RebuildEnd::Completed,
            _ if view.targets.contains(child) => return,
            Some(ChildState::Rebuilding) => return,
            Some(ChildState::Faulted(reason)) => RebuildEnd::TargetFailed(reason),
            _ => RebuildEnd::Stopped,
        };
        let job = self.rebuild.job.take().expect("it was just there");
        let end = if end == RebuildEnd::Completed { end } else { job.end.unwrap_or(end) };
        let record = job.record(cx.now(), end, self.rebuild.copier.moved());
        self.rebuild.history.add(record);
        self.rebuild.copier.drop_receiver(child);
        self.rebuild.copier.resume();
    }
}
