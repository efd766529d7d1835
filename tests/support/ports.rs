//! Ports for servers that are started, killed and started again: no two tests get the same one, and it stays free while its
//! server is away.

use std::{
    net::{Ipv4Addr, TcpListener},
    sync::atomic::{AtomicU16, Ordering},
};

/// Below the ports that Linux gives to whoever asks for any, and to connections: those come and go.
const FIRST: u16 = 10_000;
const COUNT: u16 = 22_000;

/// How many were handed out.
static HANDED_OUT: AtomicU16 = AtomicU16::new(0);

/// A port at which nobody listens at this address, and which nobody else in this process is given.
pub fn free(host: Ipv4Addr) -> u16 {
    // Other test programs that run beside this one begin elsewhere.
    let begin = std::process::id().wrapping_mul(499) % u32::from(COUNT);
    for _ in 0..COUNT {
        let step = u32::from(HANDED_OUT.fetch_add(1, Ordering::Relaxed));
        let offset = u16::try_from((begin + step) % u32::from(COUNT)).unwrap();
        if TcpListener::bind((host, FIRST + offset)).is_ok() {
            return FIRST + offset;
        }
    }
    panic!("no port is free at {host}");
}
