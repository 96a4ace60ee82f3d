//! A thread that steps a software controller, for tests in which the driver has threads too.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::SoftwareController;

/// How long the thread rests when there was nothing to do.
const REST: Duration = Duration::from_micros(50);

/// Steps a controller until it is dropped.
#[derive(Debug)]
pub struct Runner {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl SoftwareController {
    /// Starts a thread that steps it.
    ///
    /// # Errors
    ///
    /// The system starts no thread.
    pub fn run(&self) -> std::io::Result<Runner> {
        let stop = Arc::new(AtomicBool::new(false));
        let (controller, told) = (self.clone(), stop.clone());
        let thread = std::thread::Builder::new().name("software-nvme".into()).spawn(move || {
            // Acquire, partner: the release in `drop`.
            while !told.load(Ordering::Acquire) {
                if !controller.step() {
                    std::thread::sleep(REST);
                }
            }
        })?;
        Ok(Runner { stop, thread: Some(thread) })
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        // Release, partner: the acquire in the thread.
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
