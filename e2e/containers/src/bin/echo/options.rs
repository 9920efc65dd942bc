//! The command line: which ports, and how long to go on after SIGTERM.

use std::fmt;
use std::time::Duration;

pub(crate) const HELP: &str = "\
Tells clients who asked and who answered, over HTTP, TCP and UDP.

Usage: echo [--http PORT]... [--tcp PORT]... [--udp PORT]... [--grace SECONDS]

  --http PORT      HTTP (8080 if no port is given at all):
                   /          pod=NAME node=NAME client=ADDRESS:PORT
                   /hostname  the pod's name
                   /clientip  the client's address
                   /healthz   ok
                   /bytes?n=N&rate=R
                              N bytes, R of them a second (at once without rate)
  --tcp PORT       every byte comes back
  --udp PORT       every datagram comes back, but for `hostname` and `clientip`
  --grace SECONDS  goes on serving for so long after SIGTERM or SIGINT (default 5);
                   a second signal ends it at once";

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Help,
    Serve(Options),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) http: Vec<u16>,
    pub(crate) tcp: Vec<u16>,
    pub(crate) udp: Vec<u16>,
    pub(crate) grace: Duration,
}

impl fmt::Display for Options {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ports = [("http", &self.http), ("tcp", &self.tcp), ("udp", &self.udp)];
        let listed: Vec<String> = ports
            .iter()
            .flat_map(|(name, ports)| ports.iter().map(move |port| format!("{name}/{port}")))
            .collect();
        formatter.write_str(&listed.join(", "))
    }
}

/// Accepts `--flag value` and `--flag=value`.
pub(crate) fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Command, String> {
    let mut options = Options {
        http: Vec::new(),
        tcp: Vec::new(),
        udp: Vec::new(),
        grace: Duration::from_secs(5),
    };
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        if argument == "--help" {
            return Ok(Command::Help);
        }
        let (flag, value) = match argument.split_once('=') {
            Some((flag, value)) => (flag.to_owned(), Some(value.to_owned())),
            None => (argument, None),
        };
        let ports = match flag.as_str() {
            "--http" => Some(&mut options.http),
            "--tcp" => Some(&mut options.tcp),
            "--udp" => Some(&mut options.udp),
            "--grace" => None,
            _ => return Err(format!("unknown argument {flag}; --help lists them")),
        };
        let value = value
            .or_else(|| arguments.next())
            .ok_or_else(|| format!("{flag} needs a value"))?;
        match ports {
            Some(ports) => ports.push(port(&flag, &value)?),
            None => options.grace = seconds(&flag, &value)?,
        }
    }
    if options.http.is_empty() && options.tcp.is_empty() && options.udp.is_empty() {
        options.http.push(8080);
    }
    Ok(Command::Serve(options))
}

fn port(flag: &str, value: &str) -> Result<u16, String> {
    match value.parse() {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(format!(
            "{flag} {value}: a port is a number from 1 to 65535"
        )),
    }
}

fn seconds(flag: &str, value: &str) -> Result<Duration, String> {
    value
        .parse()
        .map(Duration::from_secs)
        .map_err(|_| format!("{flag} {value}: a whole number of seconds is needed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_line(line: &str) -> Result<Command, String> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn flags_repeat_and_take_both_forms() {
        let parsed = parse_line("--http 8080 --http=8081 --tcp 9000 --udp=9001 --grace 30");
        let expected = Options {
            http: vec![8080, 8081],
            tcp: vec![9000],
            udp: vec![9001],
            grace: Duration::from_secs(30),
        };
        assert_eq!(parsed, Ok(Command::Serve(expected)));
    }

    #[test]
    fn without_any_port_it_serves_http_on_8080() {
        let Ok(Command::Serve(options)) = parse_line("--grace 1") else {
            panic!("no options")
        };
        assert_eq!(options.to_string(), "http/8080");
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_name() {
        for (line, told) in [
            ("--tcp 0", "--tcp 0: a port"),
            ("--udp=65536", "--udp 65536: a port"),
            ("--http", "--http needs a value"),
            ("--grace soon", "--grace soon: a whole number"),
            ("9000", "unknown argument 9000"),
        ] {
            let error = parse_line(line).unwrap_err();
            assert!(error.starts_with(told), "{line}: {error}");
        }
    }
}
