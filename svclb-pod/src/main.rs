//! The process of a svclb pod: environment, rules, sleep. It is PID 1 of an image that holds nothing
//! else.
//!
//! It begins where the C library calls it, without the runtime that Rust puts around a `main`: names of
//! threads, a guard for the stack and what prints them are an eighth of the file, and nothing here
//! needs them.
#![no_main]

use std::env;
use std::error::Error;
use std::ffi::{CStr, CString, c_char, c_int};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::execve;
use svclb_pod::backend::{self, Installed, one_line};
use svclb_pod::config::{Config, Family};
use svclb_pod::conntrack;
use svclb_pod::forwarding::{self, State};
use svclb_pod::output;
use svclb_pod::report::{self, Milliseconds};
use svclb_pod::rules::Rules;
use svclb_pod::signals;

const HELP: &str = "\
Forwards the ports of one LoadBalancer Service. It installs its rules with the kernel, and sleeps until
SIGTERM or SIGINT; it leaves the rules to the end of its network namespace.

Usage:
  svclb-pod                         install the rules and sleep
  svclb-pod check                   tell whether the rules are in place; waits up to a second for them
  svclb-pod allow-ipv6-forwarding   switch on IPv6 forwarding of the network namespace; needs a writable
                                    /proc/sys, so run it in a privileged init container
  svclb-pod hold                    forward nothing and sleep: a pod that only has its hostPorts
  svclb-pod --help
  svclb-pod --version

Environment, lists separated by commas or spaces:
  SVCLB_FORWARDS   protocol/port=destination port, like tcp/80=8080,udp/53=30053
  DEST_IPS         the addresses to forward to, IPv4 and IPv6; connections are spread over a family's
  SRC_RANGES       the ranges that may connect, like 10.0.0.0/8,fd00::/8; unset: any source
  SVCLB_BACKEND    nftables or iptables; unset: the first of them that the kernel takes
instead of SVCLB_FORWARDS, for one port and as rancher/klipper-lb has it:
  SRC_PORT, DEST_PROTO, DEST_PORT

Exit codes: 0 done, or all in place; 2 the environment is not valid; 1 everything else.
";

/// How long `check` waits, and how often it looks.
const PATIENCE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(10);

/// How the process ends.
#[derive(Clone, Copy)]
enum ExitCode {
    Success = 0,
    Failure = 1,
    Environment = 2,
}

#[expect(
    unsafe_code,
    reason = "the C library calls it by this name, and nothing else here has it"
)]
// SAFETY: no other function of the program has this name, and this is the signature of C's `main`.
#[unsafe(no_mangle)]
extern "C" fn main(_count: c_int, _arguments: *const *const c_char) -> c_int {
    start() as c_int
}

fn start() -> ExitCode {
    // First of all: PID 1 does not even get a signal that is neither blocked nor asked for.
    if let Err(error) = signals::block() {
        return fail("cannot block signals", &error);
    }
    output::take_closed_places();
    let started = Instant::now();
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(|argument| argument.to_str()).collect();
    match arguments.as_slice() {
        [] => run(started),
        [Some("check")] => check(started),
        [Some("allow-ipv6-forwarding")] => allow_ipv6_forwarding(),
        [Some("hold")] => hold(),
        // What the program runs when it is done; see `sleep_anew`.
        [Some("sleep")] => sleep(),
        [Some("--help" | "-h" | "help")] => say(HELP),
        [Some("--version" | "-V")] => say(concat!("svclb-pod ", env!("CARGO_PKG_VERSION"), "\n")),
        _ => {
            say_why("unknown arguments; `svclb-pod --help` tells those that there are");
            ExitCode::Failure
        }
    }
}

fn run(started: Instant) -> ExitCode {
    match config().and_then(|config| forward(&config, started)) {
        // What is installed lives on until this program ends, see `Installed`.
        Ok(_installed) => sleep_anew(),
        Err(code) => code,
    }
}

/// What a Service gets whose ports kube-proxy alone can forward: the pod keeps others from them.
fn hold() -> ExitCode {
    say("the hostPorts are held, and nothing is forwarded\n");
    sleep()
}

/// Starts this program anew, in the same process, to sleep. It may sleep for months, and whatever memory
/// the rules took, an allocator never gives all of it back; nor does it need the environment any more.
/// Signals stay blocked, and those that have come stay there; sockets do not, so a table that one of them
/// owns would not live on.
fn sleep_anew() -> ExitCode {
    let program = env::current_exe().ok();
    let program = program.and_then(|path| CString::new(path.into_os_string().into_vec()).ok());
    if let Some(program) = program {
        // Comes back only if it did not work, and then this one sleeps just as well.
        let _ = execve::<_, &CStr>(&program, &[program.as_c_str(), c"sleep"], &[]);
    }
    sleep()
}

fn sleep() -> ExitCode {
    match signals::wait() {
        Ok(()) => ExitCode::Success,
        Err(error) => fail("cannot wait for signals", &error),
    }
}

/// Does all that there is to do before sleeping.
///
/// The rules come before forwarding, so that nothing is ever forwarded that they do not know of.
fn forward(config: &Config, started: Instant) -> Result<Installed, ExitCode> {
    let (state, families, missing) = families(config)?;
    let rules = Rules::new(config, &families);
    let installed = backend::install(&rules, config.backend)
        .map_err(|error| end("cannot install the rules", &error))?;
    let backend = installed.backend();
    backend::remove_from_the_other(&rules, backend)
        .map_err(|error| end("cannot remove what an earlier start left", &error))?;
    forwarding::switch_on(&state, &families).map_err(|error| fail("cannot forward", &error))?;
    let took = Milliseconds(started.elapsed());

    let mut log = report::left_out(&missing) + &report::forwards(config, &families);
    if let Installed::Iptables(Some(error)) = &installed {
        log += &format!("nf_tables is not to be had here: {}\n", one_line(error));
    }
    log += &format!("rules in place by {backend} after {took}\n");
    // Before the log, which somebody may be slow to read; the socket is closed after it.
    let tracking = conntrack::open();
    let forgotten = match &tracking {
        Ok(socket) => conntrack::forget_stale(socket, config, &families)
            .or_else(|_| conntrack::forget_stale(socket, config, &families)),
        Err(error) => Err(*error),
    };
    if let Ok(count @ 1..) = forgotten {
        log += &format!("UDP connections from before these rules, forgotten: {count}\n");
    }
    say(&log);
    if let Err(error) = forgotten {
        // This keeps no new connection from being forwarded.
        complain(
            "cannot forget UDP connections from before these rules",
            &error,
        );
    }
    Ok(installed)
}

fn check(started: Instant) -> ExitCode {
    let config = match config() {
        Ok(config) => config,
        Err(code) => return code,
    };
    loop {
        let why_not = match is_in_place(&config) {
            Ok(None) => return say("the rules are in place\n"),
            Ok(Some(why_not)) => why_not,
            Err(error) => one_line(&*error),
        };
        if started.elapsed() >= PATIENCE {
            say_why(&why_not);
            return ExitCode::Failure;
        }
        thread::sleep(PAUSE);
    }
}

/// Why not, unless everything is as the environment asks for.
fn is_in_place(config: &Config) -> Result<Option<String>, Box<dyn Error>> {
    let state = State::read()?;
    let (families, _) = split(config, &state);
    if families.is_empty() {
        return Ok(Some(no_family()));
    }
    if let Some(family) = families.iter().find(|&&family| !state.forwards(family)) {
        return Ok(Some(format!("{family} forwarding is off")));
    }
    let rules = Rules::new(config, &families);
    let in_place = backend::in_place(&rules, config.backend)?;
    Ok((!in_place).then(|| "the rules that the environment asks for are not in place".into()))
}

fn allow_ipv6_forwarding() -> ExitCode {
    match forwarding::allow_ipv6() {
        Ok(true) => say("IPv6 forwarding is on\n"),
        Ok(false) => say("this node has no IPv6, so there is nothing to do\n"),
        Err(error) => fail(
            "cannot switch on IPv6 forwarding; is the container privileged?",
            &error,
        ),
    }
}

fn config() -> Result<Config, ExitCode> {
    Config::parse(|variable| env::var_os(variable)).map_err(|error| {
        say_why(&error.to_string());
        ExitCode::Environment
    })
}

/// The wanted families that the node has, and those that it has not.
fn families(config: &Config) -> Result<(State, Vec<Family>, Vec<Family>), ExitCode> {
    let state = State::read().map_err(|error| fail("cannot forward", &error))?;
    let (here, missing) = split(config, &state);
    if here.is_empty() {
        say_why(&no_family());
        return Err(ExitCode::Failure);
    }
    Ok((state, here, missing))
}

fn split(config: &Config, state: &State) -> (Vec<Family>, Vec<Family>) {
    config
        .families()
        .into_iter()
        .partition(|&family| state.has(family))
}

fn no_family() -> String {
    "nothing can be forwarded: this node has no IP family that is asked for".into()
}

fn say(text: &str) -> ExitCode {
    output::write(io::stdout(), text);
    ExitCode::Success
}

/// How it ends without its rules.
fn end(action: &str, error: &backend::Error) -> ExitCode {
    if error.is_stop() {
        ExitCode::Success
    } else {
        fail(action, error)
    }
}

fn fail(action: &str, error: &(dyn Error + 'static)) -> ExitCode {
    complain(action, error);
    ExitCode::Failure
}

fn complain(action: &str, error: &(dyn Error + 'static)) {
    say_why(&format!("{action}: {}", one_line(error)));
}

fn say_why(line: &str) {
    // In one piece, so that lines of several processes do not mix.
    output::write(io::stderr(), &format!("svclb-pod: {line}\n"));
}
