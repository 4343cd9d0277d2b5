use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{io, thread};

/// Forwards connections from one address to another. While it is blocked, it accepts connections and
/// holds back every byte, like a network that loses every packet.
#[derive(Debug)]
pub(super) struct Relay {
    address: SocketAddr,
    gate: Arc<Gate>,
}

#[derive(Debug, Default)]
struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    blocked: bool,
    closed: bool,
    last: u64,
    /// Both ends of each connection, so that they can be closed.
    connections: HashMap<u64, [TcpStream; 2]>,
}

impl Relay {
    pub(super) fn start(address: SocketAddr, target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let gate = Arc::new(Gate::default());
        let for_thread = Arc::clone(&gate);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if for_thread.state().closed {
                    return;
                }
                let gate = Arc::clone(&for_thread);
                thread::spawn(move || gate.forward(&client, target));
            }
        });
        Ok(Self { address, gate })
    }

    /// Blocks or unblocks all connections. Bytes that were held back are forwarded afterwards.
    pub(super) fn block(&self, blocked: bool) {
        self.gate.state().blocked = blocked;
        self.gate.changed.notify_all();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let mut state = self.gate.state();
        state.closed = true;
        for stream in state.connections.values().flatten() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        drop(state);
        self.gate.changed.notify_all();
        // Wakes the listening thread.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
    }
}

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while the relay is blocked. Returns whether to continue.
    fn pass(&self) -> bool {
        let state = self.state();
        let state = self
            .changed
            .wait_while(state, |state| state.blocked && !state.closed);
        !state.unwrap_or_else(PoisonError::into_inner).closed
    }

    fn forward(&self, client: &TcpStream, target: SocketAddr) {
        if !self.pass() {
            return;
        }
        let Ok(server) = TcpStream::connect_timeout(&target, Duration::from_secs(5)) else {
            return;
        };
        let ends = [client, &server].map(|stream| {
            let _ = stream.set_nodelay(true);
            stream.try_clone()
        });
        let [Ok(client_end), Ok(server_end)] = ends else {
            return;
        };
        let id = {
            let mut state = self.state();
            if state.closed {
                return;
            }
            state.last += 1;
            let id = state.last;
            state.connections.insert(id, [client_end, server_end]);
            id
        };
        thread::scope(|scope| {
            scope.spawn(|| self.copy(client, &server));
            self.copy(&server, client);
        });
        self.state().connections.remove(&id);
    }

    fn copy(&self, mut from: &TcpStream, mut to: &TcpStream) {
        let mut bytes = [0; 16 * 1024];
        while let Ok(length @ 1..) = from.read(&mut bytes) {
            if !self.pass() || to.write_all(&bytes[..length]).is_err() {
                break;
            }
        }
        if self.pass() {
            let _ = to.shutdown(Shutdown::Write);
        }
        let _ = from.shutdown(Shutdown::Read);
    }
}
