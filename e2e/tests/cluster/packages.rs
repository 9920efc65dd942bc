//! The script that brings the system's packages, on machines that lack some of them: this one, in mount
//! namespaces in which single programs are not there.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use anyhow::{Result, ensure};
use svclb_e2e::repository;

use crate::Test;
use crate::shared::said;

pub(crate) const TESTS: &[(&str, Test)] = &[
    (
        "where_there_is_no_apt_it_is_said_what_is_missing",
        where_there_is_no_apt_it_is_said_what_is_missing,
    ),
    (
        "who_is_not_root_is_told_what_to_run",
        who_is_not_root_is_told_what_to_run,
    ),
    (
        "an_installation_starts_no_service",
        an_installation_starts_no_service,
    ),
    (
        "what_a_killed_installation_left_goes_with_the_next_call",
        what_a_killed_installation_left_goes_with_the_next_call,
    ),
];

/// A folder in which the script lies as it does in the repository, for everybody to run.
struct ScriptCopy {
    folder: PathBuf,
}

/// In a mount namespace of its own, lays overlays on folders and removes programs from them, up to `--`;
/// then runs the rest.
const HIDE: &str = r#"
PATH=$PATH:/usr/sbin:/sbin
scratch=$1 && shift
mount -t tmpfs tmpfs "$scratch" || exit 99
while [ "$1" != -- ]; do
  for path in $(type -aP "$1"); do
    folder=$(cd "$(dirname "$path")" && pwd -P)
    own=$scratch/${folder//\//-}
    if [ ! -e "$own" ]; then
      mkdir -p "$own/upper" "$own/work"
      mount -t overlay -o "lowerdir=$folder,upperdir=$own/upper,workdir=$own/work" overlay "$folder" || exit 99
    fi
    rm -f "$path"
  done
  shift
done
shift
exec "$@"
"#;

/// A command on a machine that is like this one, but for some programs.
pub(crate) fn command_without(programs: &[&str], command: &[&str]) -> Command {
    let mut unshare = Command::new("unshare");
    unshare
        .args(["--mount", "--propagation", "private"])
        .args(["bash", "-c", HIDE, "hide"])
        // A place for the overlays' own folders. It is there, and what is in it is not needed here.
        .arg(env!("CARGO_TARGET_TMPDIR"))
        .args(programs)
        .arg("--")
        .args(command);
    unshare
}

impl ScriptCopy {
    fn new() -> Result<Self> {
        // What else is missing is not to be part of what is said.
        let complete = Command::new(repository().join("e2e/packages.sh")).status()?;
        ensure!(complete.success(), "{complete}");
        let folder = format!("svclb-e2e-packages-{}", std::process::id());
        let folder = std::env::temp_dir().join(folder);
        for name in ["e2e", "bin"] {
            fs::create_dir_all(folder.join(name))?;
        }
        let copy = Self { folder };
        fs::copy(repository().join("e2e/packages.sh"), copy.script())?;
        Ok(copy)
    }

    fn script(&self) -> PathBuf {
        self.folder.join("e2e/packages.sh")
    }

    /// Runs the script where conntrack and other programs are missing, as the end of a command line.
    fn run(&self, others_missing: &[&str], prefix: &[&str]) -> Result<Output> {
        let script = self.script().display().to_string();
        let missing = [&["conntrack"], others_missing].concat();
        Ok(command_without(&missing, &[prefix, &[script.as_str()]].concat()).output()?)
    }

    /// Runs shell commands where conntrack is missing, the host has no policy about services, and
    /// apt-get is a script. `$packages` is the script, `$policy` the host's policy.
    fn shell(&self, apt_get: &str, commands: &str) -> Result<Output> {
        let program = self.folder.join("bin/apt-get");
        fs::write(&program, format!("#!/bin/sh\n{apt_get}\n"))?;
        fs::set_permissions(&program, Permissions::from_mode(0o755))?;
        let set = format!(
            "PATH={}:$PATH packages={} policy=/usr/sbin/policy-rc.d; rm -f $policy",
            self.folder.join("bin").display(),
            self.script().display()
        );
        let script = format!("{set}\n{commands}");
        Ok(command_without(&["conntrack"], &["bash", "-c", &script]).output()?)
    }
}

impl Drop for ScriptCopy {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn where_there_is_no_apt_it_is_said_what_is_missing() -> Result<()> {
    let output = ScriptCopy::new()?.run(&["nft", "apt-get"], &[])?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    let missing = stdout(&output);
    ensure!(
        missing == "Missing on this system: nft conntrack\n",
        "{missing}"
    );
    let said = said(&output);
    ensure!(
        said == "This script knows apt alone. Install what provides the above \
                 (on Debian: nftables conntrack) and try again.",
        "{said}"
    );
    Ok(())
}

fn who_is_not_root_is_told_what_to_run() -> Result<()> {
    let nobody = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ];
    let copy = ScriptCopy::new()?;
    let output = copy.run(&[], &nobody)?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    let said = said(&output);
    ensure!(
        said == "As root, run: apt-get install --no-install-recommends conntrack",
        "{said}"
    );
    ensure!(!copy.folder.join("target").exists(), "something is left");
    Ok(())
}

fn an_installation_starts_no_service() -> Result<()> {
    let output = ScriptCopy::new()?.shell(
        // dpkg's scripts ask the policy by invoke-rc.d; 101 is "action forbidden by policy".
        r#"[ "$1" = update ] || { /usr/sbin/policy-rc.d containerd start; echo "Setting up policy ($?) ..."; }"#,
        r#"$packages; echo "ended with $?"; ls $policy"#,
    )?;
    let (stdout, said) = (stdout(&output), said(&output));
    ensure!(stdout.contains("  policy 101\n"), "{stdout}{said}");
    // It has installed nothing, and that is seen.
    ensure!(
        said.contains("Still missing after the installation: conntrack"),
        "{said}"
    );
    ensure!(stdout.ends_with("ended with 1\n"), "{stdout}");
    Ok(())
}

fn what_a_killed_installation_left_goes_with_the_next_call() -> Result<()> {
    let output = ScriptCopy::new()?.shell(
        r#"[ "$1" = update ] || [ -e "$0.was-killed" ] || { touch "$0.was-killed"; kill -KILL $PPID; }"#,
        r#"
        seen() { if [ -e $policy ]; then echo "$1: there"; else echo "$1: gone"; fi; }
        $packages >/dev/null; seen "killed ($?)"
        flock --shared $policy $packages >/dev/null; seen "somebody else uses it"
        ln -s /bin/true "$(dirname "$(command -v apt-get)")/conntrack"
        $packages; seen "nothing to do ($?)"
        "#,
    )?;
    let (stdout, said) = (stdout(&output), said(&output));
    ensure!(
        stdout == "killed (137): there\nsomebody else uses it: there\nnothing to do (0): gone\n",
        "{stdout}{said}"
    );
    Ok(())
}
