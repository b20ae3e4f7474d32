//! Many requests at once: in several environments, and in one that takes several, as Lambda Managed Instances do.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, TcpListener},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use local::environment::{ACCEPTED, Link, Process, invocation};

use super::{
    Bench, DATABASE, Row, Times, micros,
    requests::{Caller, seed},
};

const UNCOUNTED: Duration = Duration::from_millis(700);
const COUNTED: Duration = Duration::from_secs(3);
const COUNTED_QUICKLY: Duration = Duration::from_millis(300);
const AT_ONCE: usize = 4;

pub(super) async fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let caller = Caller::new()?;
    let id = seed(bench, &caller, 1).await?.first().copied();
    let event = caller.event("get-account", id, None)?;
    let counted = if bench.quick { COUNTED_QUICKLY } else { COUNTED };
    let mut rows = Vec::new();
    let mut one_rate = 0.0;
    for (name, processes, concurrency) in [
        ("1 environment", 1, 1),
        ("4 environments", AT_ONCE, 1),
        ("1 environment, AWS_LAMBDA_MAX_CONCURRENCY=4", 1, AT_ONCE),
    ] {
        bench.progress(&format!("at once: {name}"));
        let times = Crowd::default().run(bench, &event, counted, processes, concurrency)?;
        let rate = times.0.len() as f64 / counted.as_secs_f64();
        if processes * concurrency == 1 {
            one_rate = rate;
        }
        rows.extend([
            Row::beside(format!("at once, {name}: gets"), "1/s", rate, one_rate),
            Row::alone(format!("at once, {name}: p50"), "µs", micros(times.median())),
            Row::alone(format!("at once, {name}: p99"), "µs", micros(times.percentile(99))),
        ]);
    }
    Ok(rows)
}

/// Answers every process that asks for an event with one, at once.
#[derive(Default)]
struct Crowd {
    last_id: AtomicU64,
    running: Mutex<HashMap<String, Instant>>,
    times: Mutex<Times>,
}

impl Crowd {
    fn run(
        self,
        bench: &Bench,
        event: &[u8],
        counted: Duration,
        processes: usize,
        concurrency: usize,
    ) -> Result<Times> {
        let binary = bench.binary("get-account")?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let mut env = bench.env(DATABASE);
        if concurrency > 1 {
            env.push(("AWS_LAMBDA_MAX_CONCURRENCY".to_owned(), concurrency.to_string()));
        }
        let start = Instant::now();
        thread::scope(|scope| {
            let crowd = &self;
            scope.spawn(move || {
                // A connection of our own is the sign to stop.
                while let Ok((stream, _)) = listener.accept()
                    && start.elapsed() < UNCOUNTED + counted
                {
                    scope.spawn(move || Link::new(stream).and_then(|link| crowd.serve(link, event, start)));
                }
            });
            let started: Result<Vec<Process>> = (0..processes).map(|_| Process::start(&binary, &env, port)).collect();
            thread::sleep(UNCOUNTED + counted);
            // The processes hang up as they end.
            drop(started?);
            std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
            anyhow::Ok(())
        })?;
        Ok(self.times.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn serve(&self, mut link: Link, event: &[u8], start: Instant) -> Result<()> {
        while let Some(request) = link.receive()? {
            match request.path.rsplit('/').nth(1) {
                Some(id) if request.path.ends_with("/response") => {
                    let sent = self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
                    if let Some(sent) = sent.filter(|sent| *sent > start + UNCOUNTED) {
                        self.times.lock().unwrap_or_else(PoisonError::into_inner).0.push(sent.elapsed());
                    }
                    link.send(ACCEPTED)?;
                }
                _ => {
                    let id = self.last_id.fetch_add(1, Ordering::Relaxed).to_string();
                    self.running.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), Instant::now());
                    link.send(&invocation(&id, event))?;
                }
            }
        }
        Ok(())
    }
}
