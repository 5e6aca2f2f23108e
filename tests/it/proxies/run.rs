//! nginx and haproxy in front of both doors, each with connections that it keeps, and without
//! retries.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{process::Process, tools::has_program};

/// A proxy that runs. Dropping it ends it.
pub struct Proxy {
    child: Child,
    /// Its address for REST.
    pub rest: String,
    /// Its address for gRPC.
    pub grpc: String,
    _directory: TempDir,
}

impl Proxy {
    /// nginx, with more directives for REST. `None` where it is missing: the test is skipped.
    pub fn nginx(process: &Process, rest_directives: &str) -> Option<Self> {
        if !has_program("nginx", "nginx-light") {
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let [rest, grpc] = free_addresses();
        let at = directory.path().display();
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {at}/{name};"))
            .concat();
        let config = format!(
            "daemon off; user root; pid {at}/pid; error_log {at}/error.log;
            events {{ worker_connections 1024; }}
            http {{
                access_log off; {temporary}
                keepalive_requests 1000000; keepalive_timeout 1h;
                upstream rest {{ server {}; keepalive 64; }}
                upstream grpc {{ server {}; keepalive 64; }}
                server {{
                    listen {rest};
                    location / {{
                        proxy_pass http://rest;
                        proxy_http_version 1.1;
                        proxy_set_header Connection \"\";
                        proxy_next_upstream off;
                        {rest_directives}
                    }}
                }}
                server {{
                    listen {grpc} http2;
                    client_max_body_size 3m;
                    location / {{
                        grpc_pass grpc://grpc;
                        grpc_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
                        grpc_next_upstream off;
                    }}
                }}
            }}",
            process.rest().trim_start_matches("http://"),
            process.grpc(),
        );
        let path = write(directory.path(), "nginx.conf", &config);
        let mut command = Command::new("nginx");
        command.args(["-p", directory.path().to_str().unwrap(), "-c", &path]);
        Some(Self::started(command, directory, rest, grpc))
    }

    /// haproxy, with more lines for REST. `None` where it is missing: the test is skipped.
    pub fn haproxy(process: &Process, rest_lines: &str) -> Option<Self> {
        if !has_program("haproxy", "haproxy") {
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let [rest, grpc] = free_addresses();
        let config = format!(
            "global\n maxconn 1000\n\
             defaults\n mode http\n retries 0\n http-reuse always\n timeout connect 5s\n \
             timeout client 1h\n timeout server 1h\n\
             listen rest\n bind {rest}\n {rest_lines}\n server one {}\n\
             listen grpc\n bind {grpc} proto h2\n server one {} proto h2\n",
            process.rest().trim_start_matches("http://"),
            process.grpc(),
        );
        let path = write(directory.path(), "haproxy.cfg", &config);
        let mut command = Command::new("haproxy");
        command.args(["-db", "-f", &path]);
        Some(Self::started(command, directory, rest, grpc))
    }

    fn started(mut command: Command, directory: TempDir, rest: String, grpc: String) -> Self {
        let log = fs::File::create(directory.path().join("log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut child = command.spawn().unwrap();
        let started = Instant::now();
        while [&rest, &grpc].into_iter().any(|addr| TcpStream::connect(addr).is_err()) {
            let log = || fs::read_to_string(directory.path().join("log")).unwrap();
            assert!(
                child.try_wait().unwrap().is_none() && started.elapsed() < Duration::from_secs(20),
                "the proxy has not started: {}",
                log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { child, rest, grpc, _directory: directory }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // By a signal that its own processes hear of.
        let _ = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        let _ = self.child.wait();
    }
}

fn write(directory: &Path, name: &str, text: &str) -> String {
    let path = directory.join(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Two addresses that nobody listens on.
fn free_addresses() -> [String; 2] {
    let listeners = [(), ()].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().to_string())
}
