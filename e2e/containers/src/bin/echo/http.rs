//! As much of HTTP/1.1 as curl and a kubelet's probe speak: GET and HEAD, connections that stay open.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::Identity;
use crate::sockets::canonical;

/// A request's head may be so long.
const HEAD_LIMIT: u64 = 8 * 1024;

/// An open connection that asks nothing is closed after this time.
const IDLE_LIMIT: Duration = Duration::from_secs(60);

/// Bytes of a download are sent in pieces of this size, or of a tenth of a second.
const PIECE: u64 = 16 * 1024;

/// What the first lines of a request say, as far as anything here depends on it.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    head_only: bool,
    target: String,
    keep_alive: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Text(String),
    /// So many bytes, all at once or so many a second.
    Bytes {
        count: u64,
        per_second: Option<u64>,
    },
    NotFound,
    BadRequest(&'static str),
}

/// Answers the requests of one connection until it is closed.
pub(crate) fn serve(stream: &TcpStream, identity: &Identity) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(IDLE_LIMIT))?;
    let client = canonical(stream.peer_addr()?);
    let mut reader = BufReader::with_capacity(2048, stream);
    loop {
        let Some(head) = read_head(&mut reader)? else {
            return Ok(());
        };
        let (answer, head_only, keep_alive) = match parse(&head) {
            Ok(request) => {
                let answer = answer(&request.target, client, identity);
                (answer, request.head_only, request.keep_alive)
            }
            Err(reason) => (Answer::BadRequest(reason), false, false),
        };
        send(stream, &answer, head_only, keep_alive)?;
        if !keep_alive {
            return Ok(());
        }
    }
}

/// The lines before the empty one; `None` if the client has closed instead of asking.
fn read_head(reader: &mut BufReader<&TcpStream>) -> io::Result<Option<String>> {
    let mut head = String::new();
    let mut limited = reader.take(HEAD_LIMIT);
    loop {
        let before = head.len();
        if limited.read_line(&mut head)? == 0 {
            return match (head.is_empty(), limited.limit()) {
                (true, _) => Ok(None),
                (false, 0) => Err(io::Error::other("the request's head is too long")),
                (false, _) => Err(io::ErrorKind::UnexpectedEof.into()),
            };
        }
        if head[before..].trim_end().is_empty() {
            return Ok(Some(head));
        }
    }
}

fn parse(head: &str) -> Result<Request, &'static str> {
    let mut lines = head.lines();
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err("that is no HTTP request");
    };
    if !matches!(method, "GET" | "HEAD") {
        return Err("only GET and HEAD are served");
    }
    let connection = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("connection"))
        .map_or("", |(_, value)| value.trim());
    let keep_alive = match version {
        "HTTP/1.1" => !connection.eq_ignore_ascii_case("close"),
        "HTTP/1.0" => connection.eq_ignore_ascii_case("keep-alive"),
        _ => return Err("only HTTP/1.1 is served"),
    };
    Ok(Request {
        head_only: method == "HEAD",
        target: target.to_owned(),
        keep_alive,
    })
}

fn answer(target: &str, client: SocketAddr, identity: &Identity) -> Answer {
    let Identity { pod, node } = identity;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    match path {
        "/" => Answer::Text(format!("pod={pod} node={node} client={client}\n")),
        "/hostname" => Answer::Text(pod.clone()),
        "/clientip" => Answer::Text(client.ip().to_string()),
        "/healthz" => Answer::Text("ok".to_owned()),
        "/bytes" => bytes(query),
        _ => Answer::NotFound,
    }
}

fn bytes(query: &str) -> Answer {
    let number = |wanted: &str| {
        query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .find(|(name, _)| *name == wanted)
            .map(|(_, value)| value.parse::<u64>())
            .transpose()
    };
    match (number("n"), number("rate")) {
        (Ok(Some(count)), Ok(per_second)) if per_second != Some(0) => {
            Answer::Bytes { count, per_second }
        }
        _ => Answer::BadRequest("/bytes?n=N or /bytes?n=N&rate=R, with whole numbers"),
    }
}

fn send(
    mut stream: &TcpStream,
    answer: &Answer,
    head_only: bool,
    keep_alive: bool,
) -> io::Result<()> {
    let (status, text) = match answer {
        Answer::Text(text) => ("200 OK", text.as_str()),
        Answer::Bytes { .. } => ("200 OK", ""),
        Answer::NotFound => ("404 Not Found", "no such path\n"),
        Answer::BadRequest(reason) => ("400 Bad Request", *reason),
    };
    let length = match answer {
        Answer::Bytes { count, .. } => *count,
        _ => text.len() as u64,
    };
    let connection = if keep_alive { "keep-alive" } else { "close" };
    let body = if head_only { "" } else { text };
    // One write, one packet: head and body leave together.
    stream.write_all(
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\
             Connection: {connection}\r\n\r\n{body}"
        )
        .as_bytes(),
    )?;
    match answer {
        Answer::Bytes { count, per_second } if !head_only => {
            send_bytes(stream, *count, *per_second)
        }
        _ => Ok(()),
    }
}

/// Sends `count` zeros. With a rate, each piece waits for its time since the start, so that a slow
/// client does not make the whole any slower than it must be.
fn send_bytes(mut stream: &TcpStream, count: u64, per_second: Option<u64>) -> io::Result<()> {
    let zeros = [b'0'; PIECE as usize];
    let piece = per_second.map_or(PIECE, |rate| (rate / 10).clamp(1, PIECE));
    let start = Instant::now();
    let mut sent = 0;
    while sent < count {
        if let Some(rate) = per_second {
            let due = Duration::from_secs_f64(sent as f64 / rate as f64);
            thread::sleep(due.saturating_sub(start.elapsed()));
        }
        let length = piece.min(count - sent);
        stream.write_all(&zeros[..length as usize])?;
        sent += length;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(target: &str) -> Answer {
        let identity = Identity {
            pod: "web-1".to_owned(),
            node: "node-2".to_owned(),
        };
        answer(target, "[fd31:77::2]:41234".parse().unwrap(), &identity)
    }

    #[test]
    fn each_path_has_its_answer() {
        let text = |text: &str| Answer::Text(text.to_owned());
        assert_eq!(
            ask("/"),
            text("pod=web-1 node=node-2 client=[fd31:77::2]:41234\n")
        );
        assert_eq!(ask("/hostname"), text("web-1"));
        assert_eq!(ask("/clientip"), text("fd31:77::2"));
        assert_eq!(ask("/healthz?verbose"), text("ok"));
        assert_eq!(ask("/other"), Answer::NotFound);
        assert_eq!(
            ask("/bytes?n=70000"),
            Answer::Bytes {
                count: 70_000,
                per_second: None
            }
        );
        assert_eq!(
            ask("/bytes?rate=9&n=7"),
            Answer::Bytes {
                count: 7,
                per_second: Some(9)
            }
        );
        for wrong in [
            "/bytes",
            "/bytes?n=many",
            "/bytes?n=1&rate=0",
            "/bytes?n=-1",
        ] {
            assert!(matches!(ask(wrong), Answer::BadRequest(_)), "{wrong}");
        }
    }

    #[test]
    fn a_connection_stays_open_as_the_version_and_the_header_say() {
        for (head, keep_alive) in [
            ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", true),
            ("GET / HTTP/1.1\r\nconnection: Close\r\n\r\n", false),
            ("GET / HTTP/1.0\r\n\r\n", false),
            ("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", true),
        ] {
            assert_eq!(
                parse(head).map(|request| request.keep_alive),
                Ok(keep_alive),
                "{head}"
            );
        }
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for head in [
            "\r\n",
            "hello\r\n\r\n",
            "POST / HTTP/1.1\r\n\r\n",
            "GET / HTTP/2\r\n\r\n",
        ] {
            assert!(parse(head).is_err(), "{head}");
        }
        assert_eq!(
            parse("HEAD /x HTTP/1.1\r\n\r\n").map(|request| request.head_only),
            Ok(true)
        );
    }
}
