//! Asks the record, which may block, on a thread of its own.
//!
//! Made with the volume, on the home core or before; ends with it. One question at a time.

use std::fmt;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread;

use reactor::Nanos;
use reactor::sleep::Waker;

use super::desk::{RETRY_MAX, RETRY_MIN};
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

/// An answer, or in words why there is none.
type Said = Result<Answer, String>;

/// See the module.
pub(super) struct Clerk {
    pub id: RecordId,
    questions: Sender<Question>,
    answers: Receiver<Said>,
    pub asked_at: Option<Nanos>,
    /// Answers that come too late.
    stale: u32,
    /// When a record that did not answer is asked again, and how long that was put off.
    pub retry_at: Option<Nanos>,
    retry_after: Nanos,
    /// Why it has not answered, in words.
    pub words: Option<String>,
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
                if says.send(answer.map_err(|error| error.to_string())).is_err() {
                    return;
                }
                if let Some(waker) = &waker {
                    waker.wake_if_sleeping();
                }
            }
        };
        // Without a thread every question is lost, as if the record were away.
        drop(thread::Builder::new().name(String::from("record")).spawn(work));
        Clerk {
            id,
            questions,
            answers,
            asked_at: None,
            stale: 0,
            retry_at: None,
            retry_after: RETRY_MIN,
            words: None,
        }
    }

    pub fn is_free(&self) -> bool {
        self.asked_at.is_none() && self.stale == 0
    }

    /// Something is under way, or is to be tried again by now.
    pub fn is_busy(&self, now: Nanos) -> bool {
        self.asked_at.is_some() || self.retry_at.is_some_and(|at| at <= now)
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
        let said = match self.answers.try_recv() {
            Ok(said) => Some(said),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => {
                self.asked_at.map(|_| Err(String::from("nobody can ask it")))
            }
        };
        match (said, self.asked_at) {
            (Some(_), None) => {
                self.stale = self.stale.saturating_sub(1);
                None
            }
            (Some(said), Some(asked_at)) => Some((self.heard(now, said), asked_at)),
            (None, Some(asked_at)) if now.since(asked_at) >= RECORD_TIMEOUT => {
                self.stale += 1;
                let silence = Err(String::from("it does not answer"));
                Some((self.heard(now, silence), asked_at))
            }
            (None, _) => None,
        }
    }

    fn heard(&mut self, now: Nanos, said: Said) -> Answer {
        self.asked_at = None;
        let (answer, words) = match said {
            Ok(answer) => (answer, None),
            Err(words) => (Answer::Lost, Some(words)),
        };
        self.words = words;
        if answer == Answer::Lost {
            self.retry_at = Some(now + self.retry_after);
            self.retry_after = Nanos((self.retry_after.0 * 2).min(RETRY_MAX.0));
        } else {
            (self.retry_at, self.retry_after) = (None, RETRY_MIN);
        }
        answer
    }
}
