//! The virtio-serial port as two queues of frames: the device is read and written by a thread each.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tokio::sync::mpsc;

use crate::vm::frame::{Decoder, Frame, MAX_PAYLOAD};

/// How long to wait for the device and for the host's end of it.
const PATIENCE: Duration = Duration::from_secs(20);

/// Opens the port of this name. The queue of what comes ends when the host has closed its end.
pub(super) fn open(name: &str) -> Result<(mpsc::Receiver<Frame>, mpsc::Sender<Frame>)> {
    let device = find(name)?;
    let reader = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&device)
        .with_context(|| format!("opening {}", device.display()))?;
    let writer = reader.try_clone().context("duplicating the port")?;
    let (to_executor, from_host) = mpsc::channel(64);
    let (to_host, from_executor) = mpsc::channel(64);
    std::thread::Builder::new().name("port-read".into()).spawn(move || read(reader, &to_executor))?;
    std::thread::Builder::new().name("port-write".into()).spawn(move || write(writer, from_executor))?;
    Ok((from_host, to_host))
}

fn find(name: &str) -> Result<PathBuf> {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if let Ok(ports) = std::fs::read_dir("/sys/class/virtio-ports") {
            for port in ports.flatten() {
                let its_name = std::fs::read_to_string(port.path().join("name")).unwrap_or_default();
                let device = PathBuf::from("/dev").join(port.file_name());
                if its_name.trim_end() == name && device.exists() {
                    return Ok(device);
                }
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    bail!("no virtio-serial port named {name} appeared within {} s", PATIENCE.as_secs())
}

fn read(mut port: File, queue: &mpsc::Sender<Frame>) {
    let start = Instant::now();
    let mut heard = false;
    let mut decoder = Decoder::default();
    let mut buffer = vec![0; MAX_PAYLOAD];
    loop {
        match port.read(&mut buffer) {
            // The driver says "end of file" as long as the host's end is closed, also before it is opened.
            Ok(0) if !heard && start.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(20)),
            Ok(0) => return,
            Ok(length) => {
                heard = true;
                decoder.push(&buffer[..length]);
                loop {
                    match decoder.next() {
                        Ok(Some(frame)) => {
                            if queue.blocking_send(frame).is_err() {
                                return;
                            }
                        }
                        Ok(None) => break,
                        Err(error) => {
                            eprintln!("bascule-lab executor: what the host sends is not a frame: {error}");
                            return;
                        }
                    }
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => {
                eprintln!("bascule-lab executor: reading the port: {error}");
                return;
            }
        }
    }
}

fn write(mut port: File, mut queue: mpsc::Receiver<Frame>) {
    while let Some(frame) = queue.blocking_recv() {
        if let Err(error) = port.write_all(&frame.encode()) {
            eprintln!("bascule-lab executor: writing to the port: {error}");
            return;
        }
    }
}
