//! Asks a service over HTTP how it is.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
};

use super::nats::ports;

/// A port that is free now.
pub fn port() -> u16 {
    ports::free(Ipv4Addr::LOCALHOST)
}

/// Asks for a path; the status and the body.
pub fn ask(port: u16, request: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    let request = format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}
