//! Files between the host and the machine, and the programs that are brought there.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Component, Path};

use anyhow::{Context as _, Result, bail};

use super::client::Vm;
use super::executor::PROGRAMS;
use super::frame::{Frame, Kind, MAX_PAYLOAD, WINDOW};
use super::message::{Done, Entry, Request};
use super::programs;

/// Bytes of one fetch.
const MAX_FETCH: u64 = 4 << 30;

impl Vm {
    /// Whether the machine has this file.
    pub async fn has(&mut self, path: &str) -> Result<bool> {
        Ok(self.simple(&Request::Has { path: path.to_owned() }).await? == Done::Present(true))
    }

    /// Removes a file or directory of the machine.
    pub async fn remove(&mut self, path: &str) -> Result<()> {
        self.must(&Request::Remove { path: path.to_owned() }).await
    }

    /// Makes these paths of the host visible in the machine, where they would be hidden.
    pub async fn expose(&mut self, paths: Vec<String>) -> Result<()> {
        if paths.is_empty() {
            return Ok(());
        }
        self.must(&Request::Expose { paths }).await
    }

    /// Copies a file of the host into the machine.
    pub async fn put(&mut self, from: &Path, to: &str) -> Result<()> {
        let mut file = fs::File::open(from).with_context(|| format!("opening {}", from.display()))?;
        let mode = file.metadata()?.permissions().mode() & 0o777;
        self.send(&Frame::json(0, Kind::Request, &Request::Put { path: to.to_owned(), mode })?).await?;
        let mut room = WINDOW as usize;
        let mut buffer = vec![0; MAX_PAYLOAD];
        loop {
            let length = file.read(&mut buffer).with_context(|| format!("reading {}", from.display()))?;
            if length == 0 {
                break;
            }
            let frame = Frame::new(0, Kind::Input, buffer[..length].to_vec());
            while room < frame.cost() {
                let answer = self.expect().await?;
                match answer.kind {
                    Kind::Credit => room += answer.credited()? as usize,
                    Kind::Done => bail!("in the virtual machine: {:?}", answer.parse::<Done>()?),
                    _ => {}
                }
            }
            room -= frame.cost();
            self.send(&frame).await?;
        }
        self.send(&Frame::new(0, Kind::InputEnd, Vec::new())).await?;
        loop {
            let frame = self.expect().await?;
            if frame.kind == Kind::Done {
                return match frame.parse()? {
                    Done::Failed(reason) => bail!("in the virtual machine: {reason}"),
                    _ => Ok(()),
                };
            }
        }
    }

    /// Copies a file or directory of the machine to the host; it belongs to the caller. Existing files are replaced.
    pub async fn get(&mut self, from: &str, to: &Path) -> Result<()> {
        self.send(&Frame::json(0, Kind::Request, &Request::Get { path: from.to_owned() })?).await?;
        let mut file: Option<fs::File> = None;
        let mut total: u64 = 0;
        loop {
            let frame = self.expect().await?;
            match frame.kind {
                Kind::Entry => {
                    self.send(&Frame::credit_for(&frame)).await?;
                    file = receive_entry(&frame.parse()?, to)?;
                }
                Kind::Output => {
                    self.send(&Frame::credit_for(&frame)).await?;
                    total += frame.payload.len() as u64;
                    if total > MAX_FETCH {
                        bail!("{from}: more than {} GiB", MAX_FETCH >> 30);
                    }
                    if let Some(file) = &mut file {
                        file.write_all(&frame.payload)
                            .with_context(|| format!("writing below {}", to.display()))?;
                    }
                }
                Kind::Done => {
                    return match frame.parse()? {
                        Done::Failed(reason) => bail!("in the virtual machine: {reason}"),
                        _ => Ok(()),
                    };
                }
                _ => {}
            }
        }
    }

    /// Brings this program and the agent beside it into the machine, if they are not there in this version. Returns the directory
    /// they are in.
    pub async fn install_programs(&mut self) -> Result<String> {
        let programs = programs::own(self.dir())?;
        let key = programs::set_key(&programs);
        let directory = format!("{PROGRAMS}/{key}");
        for program in &programs {
            let target = format!("{directory}/{}", program.name);
            if !self.has(&target).await? {
                self.bring(&program.stripped, &target).await?;
            }
        }
        self.forget_old_sets(&key).await?;
        Ok(directory)
    }

    /// Brings any program into the machine. Returns its path there.
    pub async fn install_program(&mut self, path: &Path) -> Result<String> {
        let program = programs::prepare(self.dir(), path)?;
        let key = programs::set_key(std::slice::from_ref(&program));
        let target = format!("{PROGRAMS}/{key}/{}", program.name);
        if !self.has(&target).await? {
            self.bring(&program.stripped, &target).await?;
        }
        self.forget_old_sets(&key).await?;
        Ok(target)
    }

    /// Brings a file of the host to a path of the machine: it copies what it sees itself, which is quicker than to send it. Where it
    /// does not see it (a file that only this user may read, say), it is sent.
    async fn bring(&mut self, from: &Path, to: &str) -> Result<()> {
        // Without links: the machine would follow them in its own root.
        let real = fs::canonicalize(from).with_context(|| format!("looking at {}", from.display()))?;
        let metadata = fs::metadata(&real).with_context(|| format!("looking at {}", real.display()))?;
        if let Some(name) = real.to_str() {
            let mode = metadata.permissions().mode() & 0o777;
            let request =
                Request::Copy { from: name.to_owned(), path: to.to_owned(), mode, length: metadata.len() };
            match self.simple(&request).await? {
                Done::Ok => return Ok(()),
                done => tracing::debug!("{name} is sent to the virtual machine: {done:?}"),
            }
        }
        self.put(from, to).await
    }

    /// The machine's memory is not a store: of the sets of programs, the last few are kept.
    async fn forget_old_sets(&mut self, newest: &str) -> Result<()> {
        const KEPT: usize = 8;
        let file = self.dir().path().join("sets");
        let mut sets: Vec<String> = fs::read_to_string(&file)
            .unwrap_or_default()
            .lines()
            .filter(|line| *line != newest && line.chars().all(|c| c.is_ascii_hexdigit()) && !line.is_empty())
            .map(str::to_owned)
            .collect();
        sets.push(newest.to_owned());
        let excess = sets.len().saturating_sub(KEPT);
        for old in sets.drain(..excess) {
            self.remove(&format!("{PROGRAMS}/{old}")).await?;
        }
        fs::write(&file, sets.join("\n") + "\n").with_context(|| format!("writing {}", file.display()))
    }
}

/// Makes room for an entry; a regular file is returned for its contents.
fn receive_entry(entry: &Entry, to: &Path) -> Result<Option<fs::File>> {
    let below = Path::new(&entry.path);
    if !below.components().all(|part| matches!(part, Component::Normal(_))) {
        bail!("the virtual machine names a file {:?}", entry.path);
    }
    let path = if entry.path.is_empty() { to.to_owned() } else { to.join(below) };
    if entry.directory {
        return match fs::create_dir_all(&path) {
            Ok(()) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("making {}", path.display())),
        };
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
    }
    // Not through a link that stands there.
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("replacing {}", path.display()));
        }
        _ => {}
    }
    let file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(entry.mode & 0o777)
        .open(&path)
        .with_context(|| format!("creating {}", path.display()))?;
    Ok(Some(file))
}
