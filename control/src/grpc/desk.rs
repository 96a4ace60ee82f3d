//! Where requests become commands: bounds how many there are, and waits for the engine.
//!
//! The services call [`Desk::answer`] on tokio's threads; the engine blocks, so each command runs
//! on a thread of tokio's pool for blocking calls, of which there are as many as permits. Changes
//! and questions have permits of their own: as many changes as there may be can hang on a stuck
//! device, and a list is still answered.

use std::sync::Arc;
use std::time::Duration;

use api::v1;
use engine::command::{Command, CommandError, Reply, limits::COMMANDS_IN_FLIGHT_MAX};
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

use super::request::IntoCommand;
use super::response::FromReply;
use super::{deadline, refusal};

/// Most changes under way at once: as many as the engine takes. One more is refused.
pub const CHANGES_MAX: usize = COMMANDS_IN_FLIGHT_MAX;

/// Most questions asked of the engine at once; one more waits, since answers take no time.
pub const QUESTIONS_MAX: usize = 16;

/// What carries commands out, blocking, from any thread.
pub trait Executor: Send + Sync + 'static {
    /// Carries a command out within the time given, or within the command's own.
    ///
    /// # Errors
    ///
    /// Why it was not carried out, or not in time.
    fn execute(&self, command: &Command, within: Option<Duration>) -> Result<Reply, CommandError>;
}

/// Shared by all services of a server, and by its clones.
#[derive(Clone)]
pub(super) struct Desk {
    executor: Arc<dyn Executor>,
    changes: Arc<Semaphore>,
    questions: Arc<Semaphore>,
}

impl Desk {
    pub(super) fn new(executor: Arc<dyn Executor>) -> Desk {
        Desk {
            executor,
            changes: Arc::new(Semaphore::new(CHANGES_MAX)),
            questions: Arc::new(Semaphore::new(QUESTIONS_MAX)),
        }
    }

    /// Does what a request asks for.
    pub(super) async fn answer<Q: IntoCommand, R: FromReply>(
        &self,
        request: Request<Q>,
    ) -> Result<Response<R>, Status> {
        let within = deadline::of(request.metadata());
        let command = request.into_inner().into_command();
        let reply = self.execute(command.map_err(|error| refusal::status(&error))?, within).await?;
        let response = R::from_reply(reply).ok_or_else(|| {
            refusal::refuse(v1::ErrorKind::Internal, "the engine answered something else")
        })?;
        Ok(Response::new(response))
    }

    async fn execute(&self, command: Command, within: Option<Duration>) -> Result<Reply, Status> {
        let permit = if command.is_question() {
            self.questions.clone().acquire_owned().await.ok()
        } else {
            self.changes.clone().try_acquire_owned().ok()
        };
        let Some(permit) = permit else {
            let message = format!("{CHANGES_MAX} changes are under way: try again later");
            return Err(refusal::refuse(v1::ErrorKind::Busy, &message));
        };
        let executor = self.executor.clone();
        // A caller that goes away does not end the command; its permit is taken until it is done.
        let done = tokio::task::spawn_blocking(move || {
            let done = executor.execute(&command, within);
            drop(permit);
            done
        });
        match done.await {
            Ok(done) => done.map_err(|error| refusal::status(&error)),
            Err(_) => Err(refusal::refuse(v1::ErrorKind::Internal, "the command broke off")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::command::CountersInfo;
    use std::sync::Condvar;
    use std::sync::Mutex;
    use tonic::Code;

    /// Answers questions at once and changes when it is let go.
    #[derive(Default)]
    struct Stuck {
        is_let_go: Mutex<bool>,
        changed: Condvar,
        seen: Mutex<Vec<Option<Duration>>>,
    }

    impl Executor for Stuck {
        fn execute(
            &self,
            command: &Command,
            within: Option<Duration>,
        ) -> Result<Reply, CommandError> {
            self.seen.lock().unwrap().push(within);
            if command.is_question() {
                return Ok(Reply::Counters(CountersInfo {
                    cores: Vec::new(),
                    namespaces: Vec::new(),
                }));
            }
            let guard = self.is_let_go.lock().unwrap();
            drop(self.changed.wait_while(guard, |is_let_go| !*is_let_go).unwrap());
            Ok(Reply::Done)
        }
    }

    impl Stuck {
        fn let_go(&self) {
            *self.is_let_go.lock().unwrap() = true;
            self.changed.notify_all();
        }
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(CHANGES_MAX + QUESTIONS_MAX)
            .enable_all()
            .build()
            .unwrap()
    }

    #[test]
    fn all_changes_hang_and_questions_are_answered() {
        let stuck = Arc::new(Stuck::default());
        let desk = Desk::new(stuck.clone());
        runtime().block_on(async {
            let remove = || v1::RemoveDeviceRequest { device: String::from("a") };
            let mut hanging = Vec::new();
            for _ in 0..CHANGES_MAX {
                let desk = desk.clone();
                hanging.push(tokio::spawn(async move {
                    desk.answer::<_, v1::RemoveDeviceResponse>(Request::new(remove())).await
                }));
            }
            while desk.changes.available_permits() > 0 {
                tokio::task::yield_now().await;
            }
            for _ in 0..2 * QUESTIONS_MAX {
                let question = Request::new(v1::ReadCountersRequest {});
                let answer = desk.answer::<_, v1::ReadCountersResponse>(question).await;
                assert!(answer.unwrap().into_inner().cores.is_empty());
            }
            let more = desk.answer::<_, v1::RemoveDeviceResponse>(Request::new(remove())).await;
            assert_eq!(more.unwrap_err().code(), Code::ResourceExhausted);
            stuck.let_go();
            for one in hanging {
                assert!(one.await.unwrap().is_ok());
            }
            let again = desk.answer::<_, v1::RemoveDeviceResponse>(Request::new(remove())).await;
            assert!(again.is_ok(), "permits come back");
        });
    }

    #[test]
    fn the_caller_s_time_reaches_the_engine() {
        let stuck = Arc::new(Stuck::default());
        let desk = Desk::new(stuck.clone());
        let mut question = Request::new(v1::ReadCountersRequest {});
        question.set_timeout(Duration::from_secs(8));
        let answer = runtime().block_on(desk.answer::<_, v1::ReadCountersResponse>(question));
        assert!(answer.is_ok());
        assert_eq!(*stuck.seen.lock().unwrap(), [Some(Duration::from_millis(7750))]);
    }

    #[test]
    fn another_reply_than_the_command_has_is_a_fault_of_the_daemon() {
        let desk = Desk::new(Arc::new(Stuck::default()));
        let question = Request::new(v1::ListPortalsRequest {});
        let answer = runtime().block_on(desk.answer::<_, v1::ListPortalsResponse>(question));
        assert_eq!(answer.unwrap_err().code(), Code::Internal);
    }
}
