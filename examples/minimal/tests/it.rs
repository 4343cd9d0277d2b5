//! The program as its readers start it: a process with a `DATABASE_URL`, and HTTP over a socket.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command},
    thread::sleep,
    time::{Duration, Instant},
};

use ephemeral_postgres::TestDatabase;

struct Program {
    process: Child,
    address: SocketAddr,
}

impl Program {
    fn start(database: &TestDatabase) -> Self {
        // The listener closes at once, so that its port is free for the program.
        let address = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_example-minimal"))
            .env("DATABASE_URL", database.url())
            .env("ADDR", address.to_string())
            .spawn()
            .unwrap();
        let mut program = Self { process, address };
        let start = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(program.process.try_wait().unwrap().is_none(), "it ended");
            assert!(start.elapsed() < Duration::from_secs(30), "no listener");
            sleep(Duration::from_millis(20));
        }
        program
    }

    /// Sends one request, and returns the response as text.
    fn send(&self, line: &str, cookie: &str, form: &str) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let length = form.len();
        write!(
            stream,
            "{line} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncookie: {cookie}\r\n\
             content-type: application/x-www-form-urlencoded\r\ncontent-length: {length}\r\n\r\n{form}",
            self.address
        )
        .unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        response
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// README.md shows this program, and `.ci/quick-start` builds it from there.
#[test]
fn the_program_is_that_of_the_readme() {
    let readme = include_str!("../../../README.md");
    let (_, section) = readme.split_once("## Quick start\n").unwrap();
    let (_, program) = section.split_once("```rust,no_run\n").unwrap();
    let (program, _) = program.split_once("```\n").unwrap();
    assert_eq!(program, include_str!("../src/main.rs"));
}

#[tokio::test]
async fn a_user_signs_in_and_out_across_a_restart() {
    let database = TestDatabase::create("").await;
    let program = Program::start(&database);
    assert!(
        program
            .send("GET /account", "", "")
            .starts_with("HTTP/1.1 401")
    );
    let rejected = program.send("POST /sign-in", "", "password=wrong");
    assert!(rejected.starts_with("HTTP/1.1 401"), "{rejected}");

    let signed_in = program.send("POST /sign-in", "", "password=correct+horse");
    assert!(signed_in.starts_with("HTTP/1.1 303"), "{signed_in}");
    let (_, cookie) = signed_in.split_once("set-cookie: ").unwrap();
    let (cookie, _) = cookie.split_once(';').unwrap();

    // The tables and the user exist now: a second start must succeed.
    drop(program);
    let program = Program::start(&database);
    let account = program.send("GET /account", cookie, "");
    assert!(account.ends_with("Hello, ada@example.com"), "{account}");
    let signed_out = program.send("POST /sign-out", cookie, "");
    assert!(signed_out.starts_with("HTTP/1.1 303"), "{signed_out}");
    assert!(
        program
            .send("GET /account", cookie, "")
            .starts_with("HTTP/1.1 401")
    );
}
