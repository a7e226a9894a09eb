//! The thread that starts every node.
//!
//! A node dies with the lab by `PR_SET_PDEATHSIG`, and that signal is sent when the *thread* that made the process ends, not
//! the process. So the nodes are made by one thread that lives as long as the lab does.

use std::io;
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};

type Job = Box<dyn FnOnce() + Send>;

/// Starts `command` from the thread that lives as long as the lab.
pub(crate) fn spawn(mut command: Command) -> io::Result<Child> {
    static JOBS: OnceLock<Sender<Job>> = OnceLock::new();
    let jobs = JOBS.get_or_init(|| {
        let (sender, receiver) = channel::<Job>();
        std::thread::Builder::new()
            .name("spawner".into())
            .spawn(move || {
                // The sender is static: this ends with the process.
                for job in receiver {
                    job();
                }
            })
            .expect("a thread can be started");
        sender
    });
    let (answer, result) = channel();
    let job: Job = Box::new(move || {
        // The caller waits for it; if the caller panicked, nobody wants the child and it is dropped with the message.
        let _ = answer.send(command.spawn());
    });
    jobs.send(job).map_err(|_| io::Error::other("the spawner thread has ended"))?;
    result.recv().map_err(|_| io::Error::other("the spawner thread has ended"))?
}
