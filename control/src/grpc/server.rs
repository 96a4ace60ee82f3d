//! The running server: its runtime, its tasks, and its end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use reactor::cores::{CoreId, keep_off};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;

use super::connection::{self, Door};
use super::desk::{CHANGES_MAX, Desk, Executor, QUESTIONS_MAX};
use super::doors::Doors;
use super::services;
use super::socket::BoundSocket;

/// Threads that serve connections; the engine's answers are waited for on others.
const WORKERS: usize = 2;

/// Most requests of a connection at once; one more waits in the client.
const STREAMS_MAX: u32 = 128;

/// A client that says nothing for this long is asked whether it is there.
const PING_AFTER: Duration = Duration::from_secs(20);

/// It is gone if it does not answer for this long.
const PING_WITHIN: Duration = Duration::from_secs(10);

/// How long answers on their way are waited for when the server ends.
const STOP_WITHIN: Duration = Duration::from_millis(100);

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The system refused threads or descriptors.
    #[error("cannot start the gRPC server")]
    Start(#[source] io::Error),
}

/// A running server. Dropped, it ends.
#[derive(Debug)]
pub struct Server {
    runtime: Option<Runtime>,
    tasks: Vec<JoinHandle<()>>,
    stop: watch::Sender<bool>,
    _socket: BoundSocket,
}

impl Server {
    /// Serves what comes in by the doors, from threads off `reactor_cores` if there are others.
    ///
    /// # Errors
    ///
    /// A system that refuses threads.
    pub fn start(
        doors: Doors,
        executor: Arc<dyn Executor>,
        reactor_cores: &[CoreId],
    ) -> Result<Server, ServerError> {
        let runtime = runtime(reactor_cores).map_err(ServerError::Start)?;
        let (stop, stopped) = watch::channel(false);
        let routes = services::routes(&Desk::new(executor));
        let mut tasks = Vec::new();
        {
            // Listeners belong to the runtime that is entered when they are made.
            let _entered = runtime.enter();
            let unix =
                tokio::net::UnixListener::from_std(doors.unix).map_err(ServerError::Start)?;
            tasks.push(runtime.spawn(serve(unix, routes.clone(), stopped.clone())));
            if let Some(tcp) = doors.tcp {
                let tcp = tokio::net::TcpListener::from_std(tcp).map_err(ServerError::Start)?;
                tasks.push(runtime.spawn(serve(tcp, routes, stopped)));
            }
        }
        Ok(Server { runtime: Some(runtime), tasks, stop, _socket: doors.socket })
    }
}

impl Drop for Server {
    /// Takes no more requests, waits a moment for answers on their way, and leaves commands that
    /// hang in the engine to it.
    fn drop(&mut self) {
        self.stop.send_replace(true);
        let Some(runtime) = self.runtime.take() else { return };
        let tasks = std::mem::take(&mut self.tasks);
        runtime.block_on(async {
            let all = async {
                for task in tasks {
                    let _ = task.await;
                }
            };
            let _ = tokio::time::timeout(STOP_WITHIN, all).await;
        });
        runtime.shutdown_background();
    }
}

async fn serve<D: Door>(door: D, routes: Routes, mut stopped: watch::Receiver<bool>) {
    let (sender, connections) = mpsc::channel(1);
    let accepting = tokio::spawn(connection::accept(door, sender));
    let served = tonic::transport::Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .http2_keepalive_interval(Some(PING_AFTER))
        .http2_keepalive_timeout(Some(PING_WITHIN))
        .add_routes(routes)
        .serve_with_incoming_shutdown(ReceiverStream::new(connections), async move {
            // An end of the channel is an end of the server as well.
            let _ = stopped.wait_for(|stopped| *stopped).await;
        })
        .await;
    accepting.abort();
    // Single connections fail by themselves; the server as a whole has nothing to fail at.
    debug_assert!(served.is_ok(), "{served:?}");
}

fn runtime(reactor_cores: &[CoreId]) -> io::Result<Runtime> {
    let reactor_cores = reactor_cores.to_vec();
    Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(CHANGES_MAX + QUESTIONS_MAX)
        .thread_name("grpc")
        .on_thread_start(move || keep_off(&reactor_cores))
        .enable_all()
        .build()
}
