use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream as StdTcpStream,
    os::unix::fs::PermissionsExt,
    sync::Mutex,
    time::Instant,
};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::{gateway::route::tests::function, services::secret};

/// Not a test but the function that the tests below serve: this binary, started by a script, speaks the runtime API.
#[test]
fn fake_function() -> Result<()> {
    let Ok(api) = std::env::var("AWS_LAMBDA_RUNTIME_API") else { return Ok(()) };
    let (address, base) = api.trim_start_matches("http://").split_once('/').context("no base path")?;
    let mut connection = BufReader::new(StdTcpStream::connect(address)?);
    let mut call = |method: &str, path: &str, body: &str| -> Result<(String, Value)> {
        let length = body.len();
        write!(
            connection.get_mut(),
            "{method} /{base}/2018-06-01/runtime/{path} HTTP/1.1\r\nHost: {address}\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        )?;
        let (mut id, mut length, mut line) = (String::new(), 0, String::from("-"));
        while !line.trim().is_empty() {
            line.clear();
            connection.read_line(&mut line)?;
            match line.trim().split_once(": ") {
                Some(("lambda-runtime-aws-request-id", value)) => id = value.to_owned(),
                Some(("content-length", value)) => length = value.parse()?,
                _ => {}
            }
        }
        let mut body = vec![0; length];
        connection.read_exact(&mut body)?;
        Ok((id, serde_json::from_slice(&body)?))
    };
    println!("\nstarted");
    if std::env::var_os("FAIL_AT_START").is_some() {
        std::process::exit(3);
    }
    loop {
        let (id, event) = call("GET", "invocation/next", "")?;
        let text = event.to_string();
        match event["rawPath"].as_str() {
            Some("/exit") => std::process::exit(4),
            Some("/hang") => std::thread::sleep(Duration::from_secs(60)),
            Some("/error") => drop(call("POST", &format!("invocation/{id}/error"), r#"{"errorType":"Test"}"#)?),
            Some("/malformed") => drop(call("POST", &format!("invocation/{id}/response"), "no json")?),
            Some("/slow") => {
                std::thread::sleep(Duration::from_millis(200));
                call("POST", &format!("invocation/{id}/response"), &text)?;
            }
            _ => drop(call("POST", &format!("invocation/{id}/response"), &text)?),
        }
    }
}

struct Fixture {
    gateway: Gateway,
    directory: PathBuf,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Fixture {
    async fn start(env: &[(&str, &str)]) -> Result<Self> {
        let directory = std::env::temp_dir().join(format!("email-service-{}", secret()));
        fs::create_dir(&directory)?;
        let script = directory.join("fake");
        let test = std::env::current_exe()?;
        fs::write(
            &script,
            format!("#!/bin/sh\nexec '{}' --exact gateway::tests::fake_function --nocapture\n", test.display()),
        )?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
        let lines = Arc::new(Mutex::new(Vec::new()));
        let log = lines.clone();
        let mut options = Options::new(vec![function("fake", &["$default"])], directory.clone());
        options.env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        options.log = Arc::new(move |_, line| log.lock().expect("no panic under the lock").push(line.to_owned()));
        Ok(Self { gateway: Gateway::start(options).await?, directory, lines })
    }

    /// Sends bytes as they are and returns everything that comes back.
    async fn send(&self, request: &[u8]) -> Result<String> {
        send_to(self.gateway.address, request).await
    }

    async fn get(&self, path: &str) -> Result<String> {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes()).await
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

async fn send_to(address: SocketAddr, request: &[u8]) -> Result<String> {
    let mut connection = TcpStream::connect(address).await?;
    connection.write_all(request).await?;
    let mut response = Vec::new();
    connection.read_to_end(&mut response).await?;
    Ok(String::from_utf8(response)?)
}

const FAILED: &str = r#"{"message":"Internal Server Error"}"#;

#[tokio::test]
async fn a_request_reaches_the_function_and_back() -> Result<()> {
    let fixture = Fixture::start(&[]).await?;
    let response = fixture.get("/a?b=c").await?;
    assert!(response.starts_with("HTTP/1.1 200") && response.contains(r#""rawQueryString":"b=c""#), "{response}");
    assert!(fixture.get("/error").await?.ends_with(FAILED));
    assert!(fixture.get("/malformed").await?.ends_with(FAILED));
    assert_eq!(fixture.gateway.pids("fake")?.len(), 1);
    let head = fixture.send(b"HEAD / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    assert!(head.contains("content-length: ") && head.ends_with("\r\n\r\n"), "{head}");
    fixture.gateway.invoke("other", json!({})).await.expect_err("there is no such function");
    assert_eq!(fixture.gateway.invoke("fake", json!([1])).await?, Ok(json!([1])));
    assert_eq!(
        fixture.gateway.invoke("fake", json!({ "rawPath": "/error" })).await?,
        Err(json!({ "errorType": "Test" }))
    );
    Ok(())
}

#[tokio::test]
async fn a_process_that_ends_or_hangs_fails_its_request_and_is_replaced() -> Result<()> {
    let fixture = Fixture::start(&[]).await?;
    for path in ["/exit", "/hang"] {
        let response = fixture.get(path).await?;
        assert!(response.starts_with("HTTP/1.1 500") && response.ends_with(FAILED), "{path} {response}");
        assert!(fixture.get("/").await?.starts_with("HTTP/1.1 200"));
    }
    assert!(fixture.lines.lock().expect("no panic").iter().any(|line| line.contains("Task timed out after 1.00")));
    Ok(())
}

#[tokio::test]
async fn a_failing_start_fails_the_request_and_is_logged() -> Result<()> {
    let fixture = Fixture::start(&[("FAIL_AT_START", "1")]).await?;
    for _ in 0..2 {
        assert!(fixture.get("/").await?.ends_with(FAILED));
    }
    assert!(fixture.lines.lock().expect("no panic").iter().any(|line| line == "started"));
    Ok(())
}

#[tokio::test]
async fn more_requests_at_once_start_more_processes_up_to_the_limit() -> Result<()> {
    let fixture = Fixture::start(&[]).await?;
    let start = Instant::now();
    let responses = tokio::join!(fixture.get("/slow"), fixture.get("/slow"), fixture.get("/slow"));
    for response in [responses.0?, responses.1?, responses.2?] {
        assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    }
    assert!(start.elapsed() >= Duration::from_millis(400));
    assert_eq!(fixture.gateway.pids("fake")?.len(), 2);
    Ok(())
}

#[tokio::test]
async fn shutting_down_leaves_no_process() -> Result<()> {
    let fixture = Fixture::start(&[]).await?;
    fixture.gateway.prewarm();
    let pids = fixture.gateway.pids("fake")?;
    assert_eq!(pids.len(), 1);
    for pool in fixture.gateway.shared.pools.values() {
        pool.close().await;
    }
    let alive = std::process::Command::new("kill").args(["-0", &pids[0].to_string()]).output()?;
    assert!(!alive.status.success());
    Ok(())
}

#[tokio::test]
async fn lambdas_own_api_invokes_too() -> Result<()> {
    let fixture = Fixture::start(&[]).await?;
    let invoke = |name: &str, event: &str| {
        let length = event.len();
        format!(
            "POST /2015-03-31/functions/{name}/invocations HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{event}"
        )
    };
    let good = fixture.send(invoke("FAKE", "{\"a\":1}").as_bytes()).await?;
    assert!(good.starts_with("HTTP/1.1 200") && good.ends_with("{\"a\":1}"), "{good}");
    let bad = fixture.send(invoke("fake", "{\"rawPath\":\"/exit\"}").as_bytes()).await?;
    assert!(bad.contains("x-amz-function-error: Unhandled") && bad.contains("Runtime.ExitError"), "{bad}");
    assert!(fixture.send(invoke("nobody", "{}").as_bytes()).await?.starts_with("HTTP/1.1 404"));
    Ok(())
}

#[tokio::test]
async fn odd_requests_are_refused() -> Result<()> {
    let fixture = Fixture::start(&[]).await?;
    let large = format!("Content-Length: {}\r\n\r\n{}", BODY_LIMIT + 1, "x".repeat(BODY_LIMIT + 1));
    let long = format!("X: {}\r\n\r\n", "x".repeat(HEAD_LIMIT));
    let cases: &[(&str, &str, &str)] = &[
        ("POST / HTTP/1.1", &large, "413"),
        ("GET / HTTP/1.1", &long, "431"),
        ("OPTIONS * HTTP/1.1", "\r\n", "400"),
        ("CONNECT a:1 HTTP/1.1", "\r\n", "400"),
        ("GET / HTTP/1.1", "Host: xn--\r\n\r\n", "400"),
        ("GET / HTTP/1.1", "Transfer-Encoding: chunked\r\n\r\nnonsense\r\n", "400"),
        ("G\u{0}T / HTTP/1.1", "\r\n", "400"),
        ("GET /%ff%00%0a HTTP/1.0", "\r\n", "200"),
    ];
    for (line, rest, status) in cases {
        let response = fixture.send(format!("{line}\r\nConnection: close\r\n{rest}").as_bytes()).await?;
        assert_eq!(response.get(9..12), Some(*status), "{line} {response}");
    }
    Ok(())
}

#[tokio::test]
async fn what_is_addressed_to_another_host_is_refused() -> Result<()> {
    let fixture = Fixture::start(&[]).await?;
    let invoke = "POST /2015-03-31/functions/fake/invocations";
    let port = fixture.gateway.address.port();
    let with_port = [format!("localhost:{port}"), format!("127.0.0.1:{port}"), format!("[::1]:{port}")];
    let ours = ["localhost", "LOCALHOST", "api.localhost:1", "127.0.0.2", "[::1]"].map(str::to_owned);
    for host in ours.iter().chain(&with_port) {
        for line in ["GET /", invoke] {
            let request =
                format!("{line} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}");
            let response = fixture.send(request.as_bytes()).await?;
            assert!(response.starts_with("HTTP/1.1 200"), "{line} {host} {response}");
        }
    }
    for host in [
        "rebound.example",
        "localhost.rebound.example",
        "mylocalhost",
        "127.0.0.1.rebound.example",
        "192.0.2.1",
        "[2001:db8::1]",
        "localhost\r\nHost: rebound.example",
    ] {
        for line in ["GET /", "OPTIONS /", invoke] {
            let request =
                format!("{line} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}");
            let response = fixture.send(request.as_bytes()).await?;
            assert!(response.starts_with("HTTP/1.1 403"), "{line} {host} {response}");
        }
    }
    let absolute = b"GET http://rebound.example/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert!(fixture.send(absolute).await?.starts_with("HTTP/1.1 403"));
    let nameless = fixture.send(b"GET / HTTP/1.0\r\n\r\n").await?;
    assert!(nameless.starts_with("HTTP/1.0 200"), "{nameless}");
    Ok(())
}

#[tokio::test]
async fn pages_of_other_origins_cannot_invoke_functions() -> Result<()> {
    let fixture = Fixture::start(&[]).await?;
    let port = fixture.gateway.address.port();
    let send = async |line: &str, origin: &str| {
        let request = format!(
            "POST {line} HTTP/1.1\r\nHost: localhost:{port}\r\nOrigin: {origin}\r\nContent-Type: text/plain\r\n\
             Content-Length: 2\r\nConnection: close\r\n\r\n{{}}"
        );
        fixture.send(request.as_bytes()).await
    };
    let own = format!("http://localhost:{port}");
    let more = format!("{own}\r\nOrigin: https://page.example");
    for origin in ["https://page.example", "null", "http://localhost:3000", "http://localhost", "", &more] {
        let response = send("/2015-03-31/functions/fake/invocations", origin).await?;
        assert!(response.starts_with("HTTP/1.1 403"), "{origin} {response}");
        // Which pages the API serves is for the functions to say.
        assert!(send("/api/accounts", origin).await?.starts_with("HTTP/1.1 200"), "{origin}");
    }
    assert!(send("/2015-03-31/functions/fake/invocations", &own).await?.starts_with("HTTP/1.1 200"));
    Ok(())
}

#[tokio::test]
async fn no_page_can_take_an_event_or_answer_one() -> Result<()> {
    let fixture = Fixture::start(&[]).await?;
    let runtime_api = fixture.gateway.shared.pools["fake"].runtime_api;
    // Of a process and of an invocation that there are not: whoever is heard is told so.
    for (call, heard) in [("GET invocation/next", "410"), ("POST invocation/none/response", "400")] {
        let (method, path) = call.split_once(' ').context("no path")?;
        let send = async |headers: String| {
            let request = format!(
                "{method} /fake/7/2018-06-01/runtime/{path} HTTP/1.1\r\n{headers}\r\nContent-Length: 2\r\n\
                 Connection: close\r\n\r\n{{}}"
            );
            send_to(runtime_api, request.as_bytes()).await
        };
        let own = format!("Host: {runtime_api}");
        let response = send(own.clone()).await?;
        assert_eq!(response.get(9..12), Some(heard), "{call} {response}");
        for headers in [
            "Host: rebound.example".to_owned(),
            format!("Host: rebound.example:{}", runtime_api.port()),
            format!("{own}\r\nOrigin: https://page.example"),
            format!("{own}\r\nOrigin: http://{runtime_api}"),
            format!("{own}\r\nSec-Fetch-Site: cross-site"),
            format!("{own}\r\nSec-Fetch-Site: none"),
        ] {
            let response = send(headers.clone()).await?;
            assert!(response.starts_with("HTTP/1.1 403"), "{call} {headers} {response}");
        }
    }
    Ok(())
}
