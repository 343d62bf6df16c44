//! Owns a TCP proxy on loopback that does to connections what networks do: it delays, narrows, cuts, and loses what is sent
//! while the connections stay open.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Chunks on their way in one direction of one connection; a sender that is faster waits, as behind a full window.
const WINDOW: usize = 64;

/// A proxy in front of one address; it ends with the process.
pub struct Proxy {
    /// Where clients connect.
    pub address: String,
    road: Arc<Road>,
}

/// What all connections share.
struct Road {
    to: String,
    delay_ms: AtomicU64,
    bytes_per_second: AtomicU64,
    /// When the last byte that was let through leaves.
    free_at: Mutex<Instant>,
    most: AtomicUsize,
    refused: AtomicUsize,
    links: Mutex<Vec<Arc<Link>>>,
}

/// One connection: the client's end and the server's.
struct Link {
    ends: [TcpStream; 2],
    lossy: AtomicBool,
    over: AtomicBool,
}

impl Proxy {
    /// Takes a free port at once and connects to `to` for each client.
    pub fn start(to: &str) -> std::io::Result<Proxy> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?.to_string();
        let road = Arc::new(Road {
            to: to.to_string(),
            delay_ms: AtomicU64::new(0),
            bytes_per_second: AtomicU64::new(0),
            free_at: Mutex::new(Instant::now()),
            most: AtomicUsize::new(usize::MAX),
            refused: AtomicUsize::new(0),
            links: Mutex::new(Vec::new()),
        });
        let shared = Arc::clone(&road);
        thread::spawn(move || listener.incoming().flatten().for_each(|client| shared.join(client)));
        Ok(Proxy { address, road })
    }

    /// Everything takes this much longer, in each direction.
    pub fn delay(&self, by: Duration) {
        self.road.delay_ms.store(by.as_millis() as u64, Ordering::Relaxed);
    }

    /// All connections together get this many bytes a second through; 0: as many as they like.
    pub fn narrow(&self, bytes_per_second: u64) {
        self.road.bytes_per_second.store(bytes_per_second, Ordering::Relaxed);
    }

    /// Connections beyond this many are closed as soon as they are there.
    pub fn admit(&self, most: usize) {
        self.road.most.store(most, Ordering::Relaxed);
    }

    /// How many connections were closed for that.
    pub fn refused(&self) -> usize {
        self.road.refused.load(Ordering::Relaxed)
    }

    /// Cuts all connections, from both sides; returns how many there were.
    pub fn cut(&self) -> usize {
        let links = self.road.open_links();
        links.iter().for_each(|link| link.cut());
        links.len()
    }

    /// From now on everything that is sent on the connections of this moment is lost, and they stay open; returns how many.
    pub fn lose(&self) -> usize {
        let links = self.road.open_links();
        links.iter().for_each(|link| link.lossy.store(true, Ordering::Relaxed));
        links.len()
    }

    /// How many of the connections on which everything is lost are still open.
    pub fn lost_links(&self) -> usize {
        self.road.open_links().iter().filter(|link| link.lossy.load(Ordering::Relaxed)).count()
    }

    /// How many connections are open.
    pub fn links(&self) -> usize {
        self.road.open_links().len()
    }
}

impl Road {
    fn open_links(&self) -> Vec<Arc<Link>> {
        let mut links = self.links.lock().unwrap();
        links.retain(|link| !link.over.load(Ordering::Relaxed));
        links.clone()
    }

    fn join(self: &Arc<Road>, client: TcpStream) {
        if self.open_links().len() >= self.most.load(Ordering::Relaxed) {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return;
        }
        // A server that is away is seen by the client as a connection that closes.
        let Ok(server) = TcpStream::connect(&self.to) else { return };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let link =
            Arc::new(Link { ends: [client, server], lossy: AtomicBool::new(false), over: AtomicBool::new(false) });
        self.links.lock().unwrap().push(Arc::clone(&link));
        for from in 0..2 {
            let (queue, queued) = sync_channel(WINDOW);
            let (reading, writing, road) = (Arc::clone(&link), Arc::clone(&link), Arc::clone(self));
            let delay = Arc::clone(self);
            thread::spawn(move || reading.read(from, &delay, &queue));
            thread::spawn(move || writing.write(1 - from, &road, &queued));
        }
    }

    /// Waits until these bytes have had their time on the road.
    fn pass(&self, bytes: usize) {
        let rate = self.bytes_per_second.load(Ordering::Relaxed);
        if rate == 0 {
            return;
        }
        let free_at = {
            let mut free_at = self.free_at.lock().unwrap();
            *free_at = (*free_at).max(Instant::now()) + Duration::from_secs_f64(bytes as f64 / rate as f64);
            *free_at
        };
        thread::sleep(free_at.saturating_duration_since(Instant::now()));
    }
}

/// Bytes, and when they may arrive.
type Chunk = (Instant, Vec<u8>);

impl Link {
    fn read(&self, from: usize, road: &Road, queue: &SyncSender<Chunk>) {
        let mut buffer = [0; 16 << 10];
        loop {
            let length = match (&self.ends[from]).read(&mut buffer) {
                Ok(length) if length > 0 => length,
                _ => return self.cut(),
            };
            let due = Instant::now() + Duration::from_millis(road.delay_ms.load(Ordering::Relaxed));
            if !self.lossy.load(Ordering::Relaxed) && queue.send((due, buffer[..length].to_vec())).is_err() {
                return self.cut();
            }
        }
    }

    fn write(&self, to: usize, road: &Road, queued: &Receiver<Chunk>) {
        for (due, bytes) in queued {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            road.pass(bytes.len());
            // What is on its way when a connection turns lossy is lost too.
            if !self.lossy.load(Ordering::Relaxed) && (&self.ends[to]).write_all(&bytes).is_err() {
                return self.cut();
            }
        }
    }

    fn cut(&self) {
        self.over.store(true, Ordering::Relaxed);
        for end in &self.ends {
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

/// What the proxy and the tests promise each other, without a broker.
pub fn self_test() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = Proxy::start(&server.local_addr().unwrap().to_string()).unwrap();
    thread::spawn(move || {
        for stream in server.incoming().flatten() {
            thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
        }
    });
    let connect = || {
        let stream = TcpStream::connect(&proxy.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        stream
    };
    let echo = |mut stream: &TcpStream, bytes: usize| {
        let start = Instant::now();
        stream.write_all(&vec![7; bytes]).ok()?;
        stream.read_exact(&mut vec![0; bytes]).ok()?;
        Some(start.elapsed())
    };
    let one = connect();
    assert!(echo(&one, 1000).is_some());
    proxy.delay(Duration::from_millis(100));
    assert!(echo(&one, 1000).unwrap() >= Duration::from_millis(200), "a delay each way");
    proxy.delay(Duration::ZERO);
    proxy.narrow(100_000);
    assert!(echo(&one, 20_000).unwrap() >= Duration::from_millis(350), "0.2 s each way");
    proxy.narrow(0);
    proxy.admit(1);
    assert!(echo(&connect(), 10).is_none(), "no room for a second one");
    assert_eq!((proxy.refused(), proxy.links()), (1, 1));
    proxy.admit(usize::MAX);
    assert_eq!(proxy.lose(), 1);
    let lost = (&one).read(&mut [0]);
    assert!(matches!(&lost, Err(e) if e.kind() == std::io::ErrorKind::WouldBlock), "open and silent: {lost:?}");
    let two = connect();
    assert!(echo(&two, 1000).is_some(), "a new connection is not touched");
    assert_eq!((proxy.lost_links(), proxy.cut(), proxy.links()), (1, 2, 0));
    assert!(matches!((&two).read(&mut [0]), Ok(0) | Err(_)), "cut");
}
