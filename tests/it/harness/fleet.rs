//! What Kubernetes is to replicas: a Service that leads each connection to one of those that are ready, and a headless one
//! that names them to clients which balance by themselves.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};
use tonic::transport::{Channel, Endpoint, channel::Change};

use super::{process::pause, server::TestServer};

/// How soon it is known who is ready: a pod that is told to end is taken out at once.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const CHANGES: usize = 16;

type Replicas = Arc<Mutex<Vec<Arc<TestServer>>>>;

/// Replicas that come and go.
pub(crate) struct Fleet {
    replicas: Replicas,
    ready: watch::Receiver<BTreeSet<String>>,
    /// `http://127.0.0.1:<port>`: each connection leads to another replica that is ready.
    pub(crate) addr: String,
    /// Ends with it.
    _service: JoinSet<()>,
}

impl Fleet {
    pub(crate) async fn of(replicas: impl IntoIterator<Item = TestServer>) -> Self {
        let replicas: Replicas = Arc::new(Mutex::new(replicas.into_iter().map(Arc::new).collect()));
        let (tell, mut ready) = watch::channel(BTreeSet::new());
        let looked_at = replicas.clone();
        // It ends when nobody listens any more.
        std::thread::spawn(move || {
            while tell.send(who_is_ready(&looked_at)).is_ok() {
                pause(LOOK_EVERY);
            }
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = format!("http://{}", listener.local_addr().expect("bound"));
        ready.wait_for(|ready| !ready.is_empty()).await.expect("somebody is ready");
        let mut service = JoinSet::new();
        service.spawn(lead(listener, ready.clone()));
        Self { replicas, ready, addr, _service: service }
    }

    /// A channel that sends each request to one of those that are ready, on a connection to each.
    pub(crate) fn channel(&self) -> Channel {
        let (channel, changes) = Channel::balance_channel(CHANGES);
        let mut ready = self.ready.clone();
        tokio::spawn(async move {
            let mut known = BTreeSet::new();
            loop {
                let now = ready.borrow_and_update().clone();
                let endpoint =
                    |addr: &String| Endpoint::from_shared(addr.clone()).expect("an address").tcp_nodelay(true);
                let gone = known.difference(&now).map(|addr| Change::Remove(addr.clone()));
                let new = now.difference(&known).map(|addr| Change::Insert(addr.clone(), endpoint(addr)));
                for change in gone.chain(new) {
                    if changes.send(change).await.is_err() {
                        return;
                    }
                }
                known = now;
                if ready.changed().await.is_err() {
                    return;
                }
            }
        });
        channel
    }

    /// One more, which is ready, and then the oldest is told to end; returns it when it has.
    pub(crate) fn replace_oldest(&self, newest: TestServer) -> Arc<TestServer> {
        let oldest = {
            let mut replicas = self.replicas.lock().expect("nobody panicked");
            replicas.push(Arc::new(newest));
            replicas[0].clone()
        };
        oldest.signal("TERM");
        oldest.wait_for_exit(Duration::from_secs(40));
        self.replicas.lock().expect("nobody panicked").remove(0)
    }
}

fn who_is_ready(replicas: &Replicas) -> BTreeSet<String> {
    let replicas = replicas.lock().expect("nobody panicked").clone();
    replicas.iter().filter(|replica| replica.is_ready()).map(|replica| replica.addr.clone()).collect()
}

async fn lead(listener: TcpListener, ready: watch::Receiver<BTreeSet<String>>) {
    let (mut connections, mut turn) = (JoinSet::new(), 0);
    while let Ok((mut client, _)) = listener.accept().await {
        let addrs: Vec<String> = ready.borrow().iter().cloned().collect();
        turn += 1;
        let Some(addr) = addrs.get(turn % addrs.len().max(1)).cloned() else { continue };
        connections.spawn(async move {
            let addr = addr.strip_prefix("http://").expect("plain text");
            if let Ok(mut server) = TcpStream::connect(addr).await {
                // However it ends, both sides see it.
                let _ = copy_bidirectional(&mut client, &mut server).await;
            }
        });
        while connections.try_join_next().is_some() {}
    }
}
