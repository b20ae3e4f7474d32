//! The keys that check tokens, as they are now: some never change, others are asked for again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use crate::config::{AuthConfig, KeySource};
use crate::key_set::{KeySet, MAX_SET_BYTES};
use crate::secrets::{SecretStore, Secrets};
use crate::tls;

/// The longest that a request waits for keys.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// How long after a request waited for keys none does: an issuer that is slow, and who makes up ids of keys, hold up one
/// request in a minute.
const WAIT_AGAIN: Duration = Duration::from_secs(60);
/// How long an issuer has to answer. Longer than a request waits, for it is the next one's answer, too.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// After that time keys are asked for again beside a request, so that one that was taken back does not stay good here.
const OLD: Duration = Duration::from_secs(60 * 60);
/// After that time a request waits for it: in a function that is frozen between requests, nothing goes on beside them.
const TOO_OLD: Duration = Duration::from_secs(2 * 60 * 60);
/// How long after an attempt the next one begins, while there are keys and while there are none.
const ASK_AGAIN: Duration = Duration::from_secs(60);
const ASK_AGAIN_WITHOUT_KEYS: Duration = Duration::from_secs(5);

type Ask = Box<dyn Fn() -> BoxFuture<'static, anyhow::Result<KeySet>> + Send + Sync>;

/// The keys that check tokens. The last good ones serve for as long as there are no others.
#[derive(Clone)]
pub struct Keys(Arc<Inner>);

struct Inner {
    /// None where the keys cannot change.
    ask: Option<Ask>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    set: Option<Got>,
    asked_at: Option<Instant>,
    /// When the last wait began.
    waited_at: Option<Instant>,
    /// Closed when the attempt that goes on has ended.
    running: Option<watch::Receiver<()>>,
}

struct Got {
    set: Arc<KeySet>,
    at: Instant,
}

impl State {
    fn is_running(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.has_changed().is_ok())
    }

    fn set(&self) -> Option<Arc<KeySet>> {
        self.set.as_ref().map(|got| got.set.clone())
    }
}

/// An attempt that a request may wait for, and until when.
struct Wait {
    running: watch::Receiver<()>,
    until: Instant,
}

impl Wait {
    async fn end(mut self) {
        let _ = timeout_at(self.until, self.running.changed()).await;
    }
}

impl Keys {
    /// The keys that the configuration names.
    ///
    /// # Errors
    /// The secret lacks the key, or there are no certificate authorities to trust.
    pub fn new(config: &AuthConfig, secrets: &Secrets, store: &Arc<SecretStore>) -> anyhow::Result<Self> {
        let algorithm = config.algorithm;
        match &config.keys {
            KeySource::Secret => {
                let set = signing_keys(secrets)?;
                if !store.can_change() {
                    return Ok(Self::fixed(set));
                }
                let store = store.clone();
                let ask = move || -> BoxFuture<'static, _> {
                    let store = store.clone();
                    Box::pin(async move { signing_keys(&store.read_again().await?) })
                };
                Ok(Self::changing(Some(set), Box::new(ask)))
            }
            KeySource::Fixed(set) => Ok(Self::fixed(KeySet::clone(set))),
            KeySource::Url(url) => {
                let (url, tls) = (url.clone(), tls::client_config()?);
                let ask = move || -> BoxFuture<'static, _> {
                    let (url, tls) = (url.clone(), tls.clone());
                    Box::pin(async move {
                        let json = https::get(&url, MAX_SET_BYTES, &tls).await?;
                        Ok(KeySet::from_jwks(algorithm, &json)?)
                    })
                };
                Ok(Self::changing(None, Box::new(ask)))
            }
            KeySource::SecretArn(arn) => {
                let (arn, store) = (arn.clone(), store.clone());
                let ask = move || -> BoxFuture<'static, _> {
                    let (arn, store) = (arn.clone(), store.clone());
                    Box::pin(async move {
                        let json = store.manager().read(&arn).await?;
                        Ok(KeySet::from_jwks(algorithm, json.reveal().as_bytes())?)
                    })
                };
                Ok(Self::changing(None, Box::new(ask)))
            }
        }
    }

    /// Keys that stay.
    pub fn fixed(set: KeySet) -> Self {
        Self::with(Some(set), None)
    }

    fn changing(set: Option<KeySet>, ask: Ask) -> Self {
        Self::with(set, Some(ask))
    }

    fn with(set: Option<KeySet>, ask: Option<Ask>) -> Self {
        let set = set.map(|set| Got { set: Arc::new(set), at: Instant::now() });
        Self(Arc::new(Inner { ask, state: Mutex::new(State { set, ..State::default() }) }))
    }

    /// Asks for the keys where there are none yet, and waits for them as long as a request would. Without them the first
    /// requests are told so at once.
    pub async fn warm_up(&self) {
        let wait = {
            let mut state = self.state();
            if state.set.is_some() { None } else { self.begin_wait(&mut state) }
        };
        if let Some(wait) = wait {
            wait.end().await;
            let mut state = self.state();
            // That was nobody's wait, if it was of use.
            if state.set.is_some() {
                state.waited_at = None;
            }
        }
    }

    /// The keys; none when there never were any. What it waits for is not a matter of the token.
    pub async fn current(&self) -> Option<Arc<KeySet>> {
        let wait = {
            let mut state = self.state();
            match state.set.as_ref().map(|got| got.at.elapsed()) {
                Some(age) if self.0.ask.is_none() || age < OLD => return state.set(),
                Some(age) if age < TOO_OLD => {
                    self.begin(&mut state, ASK_AGAIN);
                    return state.set();
                }
                Some(_) => self.begin_wait(&mut state),
                None => {
                    let wait = self.begin_wait(&mut state);
                    self.begin(&mut state, ASK_AGAIN_WITHOUT_KEYS);
                    wait
                }
            }
        };
        if let Some(wait) = wait {
            wait.end().await;
        }
        self.state().set()
    }

    /// Other keys than these, in which there is none for a token.
    pub async fn other_than(&self, used: &Arc<KeySet>) -> Option<Arc<KeySet>> {
        self.0.ask.as_ref()?;
        let other = |state: &State| state.set().filter(|set| !Arc::ptr_eq(set, used));
        let wait = {
            let mut state = self.state();
            if let Some(set) = other(&state) {
                return Some(set);
            }
            self.begin_wait(&mut state)
        };
        wait?.end().await;
        other(&self.state())
    }

    /// Makes an attempt that the request waits for, or joins in a wait that goes on; none where others have waited already.
    fn begin_wait(&self, state: &mut State) -> Option<Wait> {
        if state.waited_at.is_none_or(|at| at.elapsed() >= WAIT_AGAIN) {
            state.waited_at = Some(Instant::now());
            self.begin(state, Duration::ZERO);
        }
        let until = state.waited_at? + PATIENCE;
        if !state.is_running() || Instant::now() >= until {
            return None;
        }
        state.running.clone().map(|running| Wait { running, until })
    }

    /// Makes an attempt in the background, but not within this time after another.
    fn begin(&self, state: &mut State, apart: Duration) {
        if state.is_running() || state.asked_at.is_some_and(|at| at.elapsed() < apart) {
            return;
        }
        state.asked_at = Some(Instant::now());
        let (end, running) = watch::channel(());
        state.running = Some(running);
        let keys = self.clone();
        drop(tokio::spawn(async move {
            keys.ask().await;
            drop(end);
        }));
    }

    async fn ask(&self) {
        let Some(ask) = &self.0.ask else { return };
        match timeout(ANSWER_LIMIT, ask()).await.context("no answer in time").flatten() {
            Ok(set) => self.state().set = Some(Got { set: Arc::new(set), at: Instant::now() }),
            Err(error) => tracing::warn!(error = format!("{error:#}"), "token_keys_unavailable: the last ones go on"),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is one assignment, so a panic elsewhere left it whole.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The current key, and the one of before where there is one.
fn signing_keys(secrets: &Secrets) -> anyhow::Result<KeySet> {
    let current = secrets.jwt_secret_key.as_ref().context("the secret has no JWT_SECRET_KEY")?;
    let keys = [Some(current), secrets.jwt_secret_key_previous.as_ref()];
    Ok(KeySet::of_secrets(keys.into_iter().flatten().map(|key| key.reveal())))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt;
    use tokio::time::{advance, sleep};

    use super::*;

    /// An issuer that answers with the next set, after a time, or not at all; and how often it was asked.
    #[derive(Clone, Default)]
    struct Script(Arc<ScriptInner>);

    #[derive(Default)]
    struct ScriptInner {
        asked: AtomicUsize,
        answer: Mutex<Answer>,
    }

    #[derive(Clone, Copy, Default)]
    enum Answer {
        #[default]
        Away,
        After(Duration, &'static str),
    }

    impl Script {
        fn set(&self, answer: Answer) {
            *self.0.answer.lock().unwrap() = answer;
        }

        fn has(&self, key: &'static str) {
            self.set(Answer::After(Duration::ZERO, key));
        }

        fn asked(&self) -> usize {
            self.0.asked.load(Ordering::Relaxed)
        }

        fn keys(&self) -> Keys {
            let script = self.clone();
            Keys::changing(
                None,
                Box::new(move || {
                    script.0.asked.fetch_add(1, Ordering::Relaxed);
                    let answer = *script.0.answer.lock().unwrap();
                    Box::pin(async move {
                        match answer {
                            Answer::Away => anyhow::bail!("away"),
                            Answer::After(time, key) => {
                                sleep(time).await;
                                Ok(KeySet::of_secrets([key]))
                            }
                        }
                    })
                }),
            )
        }
    }

    fn is(set: &Option<Arc<KeySet>>, key: &str) -> bool {
        let expected = KeySet::of_secrets([key]);
        let bytes = |set: &KeySet| set.candidates(None).next().unwrap().try_get_as_bytes().unwrap().to_vec();
        set.as_ref().is_some_and(|set| bytes(set) == bytes(&expected))
    }

    async fn minutes(minutes: u64) {
        advance(Duration::from_secs(60 * minutes)).await;
    }

    /// Lets what was begun in the background come to its end.
    async fn settle() {
        sleep(Duration::from_millis(1)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn keys_are_asked_for_at_the_start_and_then_once_an_hour_beside_the_requests() {
        let script = Script::default();
        script.has("one");
        let keys = script.keys();
        keys.warm_up().await;
        for _ in 0..59 {
            assert!(is(&keys.current().await, "one"));
            minutes(1).await;
        }
        assert_eq!(script.asked(), 1);
        script.has("two");
        minutes(2).await;
        // At once, with the old keys; the next request has the others.
        assert!(is(&keys.current().now_or_never().unwrap(), "one"));
        settle().await;
        assert!(is(&keys.current().await, "two"));
        assert_eq!(script.asked(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_good_keys_serve_while_the_issuer_is_away() {
        let script = Script::default();
        script.has("one");
        let keys = script.keys();
        keys.warm_up().await;
        script.set(Answer::Away);
        for hour in 1..=48 {
            minutes(60).await;
            assert!(is(&keys.current().await, "one"), "{hour}");
            settle().await;
        }
        assert!(script.asked() > 40, "{}", script.asked());
        script.has("two");
        minutes(1).await;
        keys.current().await;
        settle().await;
        assert!(is(&keys.current().await, "two"));
    }

    #[tokio::test(start_paused = true)]
    async fn an_unknown_key_asks_again_and_once_a_minute_at_most() {
        let script = Script::default();
        script.has("one");
        let keys = script.keys();
        keys.warm_up().await;
        let first = keys.current().await.unwrap();
        script.has("two");
        assert!(is(&keys.other_than(&first).await, "two"));
        let second = keys.current().await.unwrap();
        for _ in 0..100 {
            assert!(keys.other_than(&second).now_or_never().unwrap().is_none());
        }
        assert_eq!(script.asked(), 2);
        // Who still has the old ones in hand gets the new without asking.
        assert!(is(&keys.other_than(&first).now_or_never().unwrap(), "two"));
        minutes(1).await;
        assert!(is(&keys.other_than(&second).await, "two"));
        assert_eq!(script.asked(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_issuer_holds_up_one_request_in_a_minute_and_that_for_two_seconds() {
        let script = Script::default();
        script.has("one");
        let keys = script.keys();
        keys.warm_up().await;
        let first = keys.current().await.unwrap();
        script.set(Answer::After(Duration::from_secs(60), "two"));
        let started = Instant::now();
        assert!(keys.other_than(&first).await.is_none());
        assert_eq!(started.elapsed().as_secs(), PATIENCE.as_secs());
        for _ in 0..100 {
            assert!(keys.other_than(&first).now_or_never().unwrap().is_none());
            assert!(is(&keys.current().now_or_never().unwrap(), "one"));
        }
        assert_eq!(script.asked(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_comes_after_the_wait_serves_the_next_request() {
        let script = Script::default();
        script.set(Answer::After(Duration::from_secs(3), "one"));
        let keys = script.keys();
        keys.warm_up().await;
        assert!(keys.current().now_or_never().unwrap().is_none());
        sleep(Duration::from_secs(2)).await;
        assert!(is(&keys.current().now_or_never().unwrap(), "one"));
        assert_eq!(script.asked(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn without_keys_requests_are_told_so_at_once_and_others_are_asked_for_beside_them() {
        let script = Script::default();
        let keys = script.keys();
        keys.warm_up().await;
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(60) {
            assert!(keys.current().now_or_never().unwrap().is_none());
            sleep(Duration::from_millis(100)).await;
        }
        // Each five seconds.
        assert!((10..=13).contains(&script.asked()), "{}", script.asked());
        script.has("one");
        sleep(Duration::from_secs(5)).await;
        keys.current().await;
        settle().await;
        assert!(is(&keys.current().await, "one"));
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_requests_at_once_one_asks_and_all_have_its_answer() {
        let script = Script::default();
        script.has("one");
        let keys = script.keys();
        keys.warm_up().await;
        let first = keys.current().await.unwrap();
        script.set(Answer::After(Duration::from_secs(1), "two"));
        let all = futures_util::future::join_all((0..50).map(|_| keys.other_than(&first))).await;
        assert!(all.iter().all(|set| is(set, "two")));
        assert_eq!(script.asked(), 2);
    }
}
