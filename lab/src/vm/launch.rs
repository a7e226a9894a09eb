//! How the machine is started: virtme-ng builds the QEMU command, and both run in a PID namespace of their own, so that whatever
//! happens to the supervisor, the kernel ends all of it.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork, getgid, getppid, getuid};

use super::dir::StateDir;
use super::executor::HOST_VIEW;

/// Name of the virtio-serial port over which the executor answers.
pub const PORT: &str = "bascule.control";

/// What a machine is made of.
#[derive(Clone, Debug)]
pub struct Machine {
    /// virtme-ng.
    pub vng: PathBuf,
    /// QEMU.
    pub qemu: PathBuf,
    /// Kernel image.
    pub kernel: PathBuf,
    /// Processors.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// A network card of QEMU's own network (10.0.2.0/24), in which 10.0.2.2 is the host's loopback.
    pub network: bool,
    /// Hardware virtualisation or emulation.
    pub kvm: bool,
    /// The `bascule-lab` to run inside as executor, stripped.
    pub executor: PathBuf,
}

/// What the kernel of an emulated machine is told. It takes the HPET for its clock, since nothing vouches for the TSC: each look at the
/// time, of which every packet needs several, then leaves the guest under the emulator's big lock, and `clock_gettime` is a system call. But
/// the emulated TSC is the host's clock on all processors. Nor has an emulator anything to mitigate, while each retpoline costs
/// it two look-ups of translated code. The drivers are those of devices that nothing here uses: udev would load them for seconds, KVM's alone
/// for three.
const EMULATED: [&str; 4] = [
    "clocksource=tsc",
    "tsc=reliable",
    "mitigations=off",
    "modprobe.blacklist=kvm_amd,kvm_intel,kvm,powernow_k8,acpi_cpufreq,ahci,sr_mod,iTCO_wdt,i6300esb,i2c_i801,lpc_ich,aesni_intel,psmouse,pcspkr",
];

impl Machine {
    /// Writes the script that the machine runs and gives the arguments of virtme-ng.
    pub fn arguments(&self, dir: &StateDir) -> Result<Vec<String>> {
        let script = dir.path().join("start.sh");
        let executor = self.executor.display();
        let text = format!(
            "set -e\n\
             cp {HOST_VIEW}{executor} /usr/local/lib/bascule-vm/executor\n\
             exec /usr/local/lib/bascule-vm/executor executor --port {PORT}\n"
        );
        std::fs::write(&script, text).with_context(|| format!("writing {}", script.display()))?;
        // The kernel's command line holds 2 KiB, hence only this much of it here.
        let exec = format!(
            "mkdir -p {HOST_VIEW} && mount --bind / {HOST_VIEW} && exec sh {HOST_VIEW}{}",
            script.display()
        );
        let mut qemu_options = format!(
            "-chardev socket,id=bascule,path={} -device virtio-serial-pci \
             -device virtserialport,chardev=bascule,name={PORT}",
            dir.machine_socket().display()
        );
        if self.network {
            qemu_options += " -netdev user,id=bascule-network -device virtio-net-pci,netdev=bascule-network";
        }
        let mut arguments = vec!["--run".to_owned(), self.kernel.display().to_string()];
        if !self.kvm {
            arguments.push("--disable-kvm".to_owned());
        }
        arguments.extend(
            [
                "--qemu",
                &self.qemu.display().to_string(),
                "--disable-microvm",
                "--force-9p",
                "--user",
                "root",
                "--name",
                "bascule-lab",
                "--cpus",
                &self.cpus.to_string(),
                "--memory",
                &format!("{}M", self.memory_mib),
                "--verbose",
            ]
            .map(str::to_owned),
        );
        if !self.kvm {
            arguments.extend(EMULATED.map(|option| format!("--append={option}")));
        }
        arguments.push(format!("--qemu-opts={qemu_options}"));
        arguments.extend(["--exec".to_owned(), exec]);
        Ok(arguments)
    }
}

/// Runs a program in a PID namespace of its own that ends with this process, and this process with its parent.
#[derive(Debug, clap::Args)]
pub struct LaunchArgs {
    /// The process that must be the parent.
    #[arg(long)]
    parent: i32,
    /// Program and arguments.
    #[arg(last = true, required = true)]
    command: Vec<std::ffi::OsString>,
}

/// Waits for the program and passes its exit code on.
pub fn run(args: &LaunchArgs) -> Result<ExitCode> {
    prctl::set_pdeathsig(Signal::SIGKILL).context("asking to end with the supervisor")?;
    if getppid().as_raw() != args.parent {
        // It died before it could be asked for.
        return Ok(ExitCode::FAILURE);
    }
    // As root a PID namespace is free; else it needs a user namespace, which a system may forbid. Without one, QEMU ends because
    // the executor inside ends when the supervisor's socket closes.
    if unshare(CloneFlags::CLONE_NEWPID).is_err() {
        let (user, group) = (getuid(), getgid());
        if unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWPID).is_ok() {
            std::fs::write("/proc/self/setgroups", "deny")?;
            std::fs::write("/proc/self/uid_map", format!("{user} {user} 1"))?;
            std::fs::write("/proc/self/gid_map", format!("{group} {group} 1"))?;
        }
    }
    let command = args
        .command
        .iter()
        .map(|argument| CString::new(argument.as_bytes()))
        .collect::<Result<Vec<_>, _>>()
        .context("an argument holds a zero byte")?;
    // SAFETY: this process has a single thread.
    match unsafe { fork() }.context("forking")? {
        ForkResult::Child => {
            prctl::set_pdeathsig(Signal::SIGKILL).context("asking to end with the launcher")?;
            let error = nix::unistd::execvp(&command[0], &command).unwrap_err();
            eprintln!("bascule-lab: {}: {error}", command[0].to_string_lossy());
            Ok(ExitCode::from(127))
        }
        ForkResult::Parent { child } => loop {
            match waitpid(child, None) {
                Ok(WaitStatus::Exited(_, code)) => {
                    return Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)));
                }
                Ok(WaitStatus::Signaled(..)) => return Ok(ExitCode::FAILURE),
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error).context("waiting for the virtual machine"),
            }
        },
    }
}
