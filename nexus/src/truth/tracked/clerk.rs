//! Asks the record, which may block, on a thread of its own.
//!
//! Made with the volume, on the home core or before; ends with it. One question at a time.

use std::fmt;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread;

use reactor::Nanos;
use reactor::sleep::Waker;

use crate::truth::names::{Promise, RecordId, VoterHalf};
use crate::truth::owner::Answer;
use crate::truth::record::{self, Record};

/// A record that does not answer for this long does not answer.
pub const RECORD_TIMEOUT: Nanos = Nanos::from_secs(10);

#[derive(Debug)]
enum Question {
    Claim(Promise),
    Write(Box<VoterHalf>),
}

/// See the module.
pub(super) struct Clerk {
    pub id: RecordId,
    questions: Sender<Question>,
    answers: Receiver<Answer>,
    pub asked_at: Option<Nanos>,
    /// Answers that come too late.
    stale: u32,
}

impl fmt::Debug for Clerk {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Clerk").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Clerk {
    pub fn new(mut record: Box<dyn Record + Send>, waker: Option<Waker>) -> Clerk {
        let id = record.id();
        let (questions, asked) = channel();
        let (says, answers) = channel();
        let work = move || {
            while let Ok(question) = asked.recv() {
                let answer = match question {
                    Question::Claim(promise) => record::claim(&mut *record, promise),
                    Question::Write(half) => record::write(&mut *record, &half),
                };
                if says.send(answer).is_err() {
                    return;
                }
                if let Some(waker) = &waker {
                    waker.wake_if_sleeping();
                }
            }
        };
        // Without a thread every question is lost, as if the record were away.
        drop(thread::Builder::new().name(String::from("record")).spawn(work));
        Clerk { id, questions, answers, asked_at: None, stale: 0 }
    }

    pub fn is_free(&self) -> bool {
        self.asked_at.is_none() && self.stale == 0
    }

    pub fn claim(&mut self, now: Nanos, promise: Promise) {
        self.ask(now, Question::Claim(promise));
    }

    pub fn write(&mut self, now: Nanos, half: Box<VoterHalf>) {
        self.ask(now, Question::Write(half));
    }

    fn ask(&mut self, now: Nanos, question: Question) {
        assert!(self.is_free(), "one question at a time");
        self.asked_at = Some(now);
        // A clerk that is gone never answers, which is noticed in time.
        let _ = self.questions.send(question);
    }

    /// The answer, and when it was asked for.
    pub fn poll(&mut self, now: Nanos) -> Option<(Answer, Nanos)> {
        let answer = match self.answers.try_recv() {
            Ok(answer) => Some(answer),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => self.asked_at.map(|_| Answer::Lost),
        };
        match (answer, self.asked_at) {
            (Some(_), None) => {
                self.stale = self.stale.saturating_sub(1);
                None
            }
            (Some(answer), Some(asked_at)) => {
                self.asked_at = None;
                Some((answer, asked_at))
            }
            (None, Some(asked_at)) if now.since(asked_at) >= RECORD_TIMEOUT => {
                self.asked_at = None;
                self.stale += 1;
                Some((Answer::Lost, asked_at))
            }
            (None, _) => None,
        }
    }
}
