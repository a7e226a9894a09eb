//! A machine that systemd runs: namespaces of its own with systemd as process 1, over this machine's files, of which it changes none
//! (an overlay in memory).

use std::{
    fmt::Write as _,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

/// How long a condition may take to come true: generous, for emulated machines under load.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// What a virtual machine's firmware and a container's manager would do before they start the init program. `$1` is a directory,
/// `$2` the agent.
const BOOT: &str = r#"
set -eu
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
cp "$2" "$1/root/usr/bin/bascule-agent"
cp "$3" "$1/root/usr/lib/systemd/system/bascule-agent.service"
cd "$1/root"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
for one in run tmp dev; do mount -t tmpfs tmpfs $one; done
for one in null zero full random urandom tty; do touch dev/$one; mount --bind /dev/$one dev/$one; done
mkdir -p dev/shm dev/pts
mount -t devpts devpts dev/pts -o newinstance,ptmxmode=0666,mode=0620
ln -s pts/ptmx dev/ptmx
for one in fd stdin:fd/0 stdout:fd/1 stderr:fd/2; do ln -s /proc/self/${one##*:} dev/${one%%:*}; done
mkdir -p old run/systemd/system etc/bascule/manifests
# What concerns hardware, or is there already.
for one in systemd-udevd systemd-udev-trigger systemd-udev-settle systemd-modules-load systemd-binfmt systemd-sysctl \
    systemd-sysusers systemd-tmpfiles-setup systemd-tmpfiles-setup-dev systemd-remount-fs systemd-random-seed \
    systemd-update-utmp systemd-journal-flush systemd-hwdb-update systemd-machine-id-commit systemd-firstboot ldconfig; do
  ln -s /dev/null run/systemd/system/$one.service
done
ln -s /dev/null run/systemd/system/systemd-udevd-kernel.socket
ln -s /dev/null run/systemd/system/systemd-udevd-control.socket
: >etc/machine-id
: >etc/fstab
printf '[Unit]\nDescription=A test\nRequires=basic.target\nAfter=basic.target\nAllowIsolate=yes\n' >run/systemd/system/test.target
pivot_root . old
exec chroot . /bin/sh -c 'umount -l /old; exec env -i container=bascule-test PATH=/usr/bin:/usr/sbin:/bin:/sbin \
  /lib/systemd/systemd --system --unit=test.target --log-target=journal --log-level=info --show-status=0'
"#;

/// Such a machine.
pub(crate) struct Machine {
    unshared: Child,
    init: u32,
    _directory: tempfile::TempDir,
}

impl Machine {
    /// Starts one, with two interfaces that are one cable; or says why that cannot be done here.
    pub(crate) fn boot(agent: &Path, unit: &Path) -> Result<Self, String> {
        if !nix::unistd::geteuid().is_root() {
            return Err("needs root".into());
        }
        if !Path::new("/lib/systemd/systemd").exists() {
            return Err("needs systemd (apt-get install systemd)".into());
        }
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--pid", "--fork", "--kill-child", "--uts", "--ipc", "--net", "--cgroup"])
            .args(["/bin/sh", "-c", BOOT, "sh"])
            .arg(directory.path())
            .arg(agent)
            .arg(unit)
            .stdin(Stdio::null())
            // Of its own, so that a signal for the tests' group does not reach it: it ends with this object.
            .process_group(0);
        let unshared = command.spawn().map_err(|error| format!("needs unshare: {error}"))?;
        let mut machine = Self { unshared, init: 0, _directory: directory };
        machine.wait_for_init()?;
        machine.wait("systemd is up", |machine| machine.systemctl("is-active test.target").status.success());
        for command in [
            "ip link set lo up",
            "ip link add eth0 type veth peer name far",
            "ip link set eth0 up",
            "ip link set far up",
            "ip address add 192.16.193.1/24 dev eth0",
        ] {
            assert!(machine.run(command).status.success(), "{command}");
        }
        Ok(machine)
    }

    /// The first process of its PID namespace, by the number that it has here; once it is systemd.
    fn wait_for_init(&mut self) -> Result<(), String> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Ok(Some(status)) = self.unshared.try_wait() {
                return Err(format!(
                    "cannot make a machine of namespaces ({status}): needs mount, overlay and cgroup2"
                ));
            }
            let children = format!("/proc/{0}/task/{0}/children", self.unshared.id());
            let child = std::fs::read_to_string(children).unwrap_or_default();
            if let Some(init) = child.split_whitespace().next().and_then(|pid| pid.parse().ok())
                && std::fs::read_to_string(format!("/proc/{init}/comm")).is_ok_and(|comm| comm == "systemd\n")
            {
                self.init = init;
                return Ok(());
            }
            assert!(Instant::now() < until, "no init within {} s", PATIENCE.as_secs());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Runs a shell command on it.
    pub(crate) fn run(&self, command: &str) -> Output {
        Command::new("nsenter")
            .args(["--all", "--root", "--target", &self.init.to_string(), "/bin/sh", "-c"])
            .arg(format!("cd /; {command}"))
            .current_dir("/")
            .env_clear()
            .env("PATH", "/usr/bin:/usr/sbin:/bin:/sbin")
            .stdin(Stdio::null())
            .output()
            .expect("nsenter runs")
    }

    /// What a shell command prints, without white space at its ends.
    pub(crate) fn ask(&self, command: &str) -> String {
        String::from_utf8_lossy(&self.run(command).stdout).trim().to_owned()
    }

    /// Runs `systemctl`.
    pub(crate) fn systemctl(&self, arguments: &str) -> Output {
        self.run(&format!("systemctl --no-pager {arguments}"))
    }

    /// A property of a unit.
    pub(crate) fn property(&self, unit: &str, property: &str) -> String {
        self.ask(&format!("systemctl show --value --property={property} {unit}"))
    }

    /// Writes a file.
    pub(crate) fn write(&self, path: &str, text: &str) {
        let root = format!("/proc/{}/root{path}", self.init);
        std::fs::create_dir_all(Path::new(&root).parent().unwrap()).unwrap();
        std::fs::write(root, text).unwrap();
    }

    /// Waits until it is so.
    pub(crate) fn wait(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !is_so(self) {
            assert!(Instant::now() < until, "waited in vain: {what}\n{}", self.story());
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// What there is to be read when something goes wrong.
    pub(crate) fn story(&self) -> String {
        let mut story = String::new();
        for command in [
            "systemctl --no-pager --failed",
            "systemctl --no-pager status bascule-agent web",
            "journalctl --no-pager -n 60 -o cat",
            "bascule-agent status",
            "ip address",
        ] {
            let output = self.run(command);
            let _ = writeln!(
                story,
                "--- {command}\n{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        story
    }
}

impl Drop for Machine {
    /// With its init everything in its PID namespace ends, and with that the other namespaces.
    fn drop(&mut self) {
        let _ = self.unshared.kill();
        let _ = self.unshared.wait();
    }
}
