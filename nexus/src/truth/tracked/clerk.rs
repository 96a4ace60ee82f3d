//! Asks the record, which may block, on a thread of its own.
//!
//! Made with the volume, on the home core or before; ends with it. One question at a time. A record
//! that never blocks is asked without a thread, so that a simulated run is repeated exactly.

use std::fmt;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread;

use reactor::sleep::Waker;
use reactor::{Nanos, Wake};

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

impl Question {
    fn put(self, record: &mut dyn Record) -> Said {
        let answer = match self {
            Question::Claim(promise) => record::claim(record, promise),
            Question::Write(half) => record::write(record, &half),
        };
        answer.map_err(|error| error.to_string())
    }
}

/// Where questions are answered.
enum Office {
    /// On a thread of its own.
    Thread { questions: Sender<Question>, answers: Receiver<Said> },
    /// Here, when it is time.
    Here { record: Box<dyn Record + Send>, question: Option<(Question, Nanos)> },
}

impl Office {
    fn hire(mut record: Box<dyn Record + Send>, waker: Option<Waker>) -> Office {
        let (questions, asked) = channel::<Question>();
        let (says, answers) = channel();
        let work = move || {
            while let Ok(question) = asked.recv() {
                if says.send(question.put(&mut *record)).is_err() {
                    return;
                }
                if let Some(waker) = &waker {
                    waker.wake_if_sleeping();
                }
            }
        };
        // Without a thread every question is lost, as if the record were away.
        drop(thread::Builder::new().name(String::from("record")).spawn(work));
        Office::Thread { questions, answers }
    }
}

/// See the module.
pub(super) struct Clerk {
    pub id: RecordId,
    office: Office,
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
        let office = match record.answers_after() {
            Some(_) => Office::Here { record, question: None },
            None => Office::hire(record, waker),
        };
        Clerk {
            id,
            office,
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

    /// Something is under way, given up or not, or is to be tried again by now.
    pub fn is_busy(&self, now: Nanos) -> bool {
        !self.is_free() || self.retry_at.is_some_and(|at| at <= now)
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
        match &mut self.office {
            // A clerk that is gone never answers, which is noticed in time.
            Office::Thread { questions, .. } => drop(questions.send(question)),
            Office::Here { record, question: asked } => {
                let time = record.answers_after().unwrap_or_default();
                *asked = Some((question, now + time));
            }
        }
    }

    /// What the record has said meanwhile.
    fn listen(&mut self, now: Nanos) -> Option<Said> {
        match &mut self.office {
            Office::Thread { answers, .. } => match answers.try_recv() {
                Ok(said) => Some(said),
                Err(TryRecvError::Empty) => None,
                Err(TryRecvError::Disconnected) => {
                    self.asked_at.map(|_| Err(String::from("nobody can ask it")))
                }
            },
            Office::Here { record, question } => {
                let (question, _) = question.take_if(|(_, due)| *due <= now)?;
                Some(question.put(&mut **record))
            }
        }
    }

    /// When it is to be polled next.
    pub fn wake(&self) -> Wake {
        let answer = match &self.office {
            Office::Here { question: Some((_, due)), .. } => Wake::At(*due),
            // The thread wakes the core.
            Office::Here { .. } | Office::Thread { .. } => Wake::Never,
        };
        let patience = self.asked_at.map(|asked_at| asked_at + RECORD_TIMEOUT).or(self.retry_at);
        answer.soonest(patience.map_or(Wake::Never, Wake::At))
    }

    /// The answer, and when it was asked for.
    pub fn poll(&mut self, now: Nanos) -> Option<(Answer, Nanos)> {
        let said = self.listen(now);
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
