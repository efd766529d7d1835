//! A TCP proxy that can break the connection between a client and its server.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// How late a slow line is with each piece.
const SLOW: Duration = Duration::from_millis(25);

/// What the proxy does with connections.
#[allow(dead_code, reason = "each test binary uses its part")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// Passes everything.
    Whole,
    /// Passes what the server says late, and little at a time.
    Slow,
    /// Drops what the server says: requests arrive, answers do not.
    Mute,
    /// Closes connections, and new ones at once.
    Cut,
}

/// Ends when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    line: Arc<watch::Sender<Line>>,
    refused: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let line = Arc::new(watch::Sender::new(Line::Whole));
        let told = line.subscribe();
        let refused = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&refused);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                match *told.borrow() {
                    Line::Cut => {
                        counted.fetch_add(1, Ordering::Relaxed);
                    }
                    Line::Whole | Line::Slow | Line::Mute => {
                        tokio::spawn(carry(client, port, told.clone()));
                    }
                }
            }
        });
        Self {
            address,
            line,
            refused,
            accepting,
        }
    }

    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// How many connections were closed at once.
    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }

    pub fn set(&self, line: Line) {
        self.line.send_replace(line);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.line.send_replace(Line::Cut);
    }
}

async fn carry(client: TcpStream, port: u16, mut line: watch::Receiver<Line>) {
    let connect = TcpStream::connect(("127.0.0.1", port));
    let Ok(Ok(server)) = tokio::time::timeout(Duration::from_secs(1), connect).await else {
        return;
    };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let told = line.clone();
    let asking = async {
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
    };
    let answering = async {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
            let line = *told.borrow();
            if line == Line::Slow {
                tokio::time::sleep(SLOW).await;
            }
            let passes = matches!(line, Line::Whole | Line::Slow);
            if passes && to_client.write_all(&buffer[..read]).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = asking => {}
        () = answering => {}
        _ = line.wait_for(|line| *line == Line::Cut) => {}
    }
}
