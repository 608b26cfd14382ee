//! A TCP proxy that treats what passes through it badly, on a thread of its own.
//!
//! Each direction has a [`Way`]. To a client, a held way is a server that was swallowed by the network: connections
//! are taken, and nothing ever comes back. A cut one is a reply that is lost after the command was carried out.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{oneshot, watch},
};

/// What becomes of the bytes of one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Way {
    #[default]
    Forward,
    /// Later by this much.
    Delay(Duration),
    /// They wait until the way is another one.
    Hold,
    /// They are lost, and the connection is reset.
    Cut,
}

#[derive(Debug, Clone, Copy, Default)]
struct Rules {
    to_server: Way,
    to_client: Way,
    /// A connection older than the newest reset ends.
    resets: u64,
}

#[derive(Debug)]
pub(crate) struct ChaosProxy {
    port: u16,
    rules: watch::Sender<Rules>,
    /// The thread ends with it.
    _stop: oneshot::Sender<()>,
}

impl ChaosProxy {
    /// In front of what listens on `port` here.
    pub(crate) fn to(port: u16) -> Self {
        let (rules, seen) = watch::channel(Rules::default());
        let (stop, stopped) = oneshot::channel();
        let (listening, listens) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
                listening.send(listener.local_addr().expect("bound").port()).expect("awaited");
                tokio::select! {
                    () = serve(listener, port, seen) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { port: listens.recv().expect("it listens"), rules, _stop: stop }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Everything on its way to the server is treated so from now on.
    pub(crate) fn to_server(&self, way: Way) {
        self.rules.send_modify(|rules| rules.to_server = way);
    }

    /// The same of what the server answers.
    pub(crate) fn to_client(&self, way: Way) {
        self.rules.send_modify(|rules| rules.to_client = way);
    }

    /// Nothing passes in either direction, and no connection is told.
    pub(crate) fn swallow_everything(&self) {
        self.rules.send_modify(|rules| (rules.to_server, rules.to_client) = (Way::Hold, Way::Hold));
    }

    /// Everything passes again, what was held first.
    pub(crate) fn heal(&self) {
        self.rules.send_modify(|rules| (rules.to_server, rules.to_client) = (Way::Forward, Way::Forward));
    }

    /// Resets the connections that are open now.
    pub(crate) fn reset(&self) {
        self.rules.send_modify(|rules| rules.resets += 1);
    }
}

async fn serve(listener: TcpListener, port: u16, rules: watch::Receiver<Rules>) {
    while let Ok((client, _)) = listener.accept().await {
        tokio::spawn(carry(client, port, rules.clone()));
    }
}

async fn carry(client: TcpStream, port: u16, mut rules: watch::Receiver<Rules>) {
    // Whatever ends the connection, the client sees a reset.
    client.set_zero_linger().expect("set");
    let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    for socket in [&client, &server] {
        socket.set_nodelay(true).expect("set");
    }
    let born = rules.borrow().resets;
    let (client_in, client_out) = client.into_split();
    let (server_in, server_out) = server.into_split();
    tokio::select! {
        () = pump(client_in, server_out, rules.clone(), |rules| rules.to_server) => {}
        () = pump(server_in, client_out, rules.clone(), |rules| rules.to_client) => {}
        _ = rules.wait_for(|rules| rules.resets > born) => {}
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut rules: watch::Receiver<Rules>,
    way: impl Fn(&Rules) -> Way,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(length) => length,
        };
        let Ok(now) = rules.wait_for(|rules| way(rules) != Way::Hold).await.map(|rules| way(&rules)) else { return };
        match now {
            Way::Cut => return,
            Way::Delay(span) => tokio::time::sleep(span).await,
            Way::Forward | Way::Hold => {}
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
