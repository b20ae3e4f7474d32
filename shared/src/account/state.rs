//! How an account stands with its mail server, and how that changes: one function, which knows no clock and no database.

use std::time::Duration;

use serde::Serialize;

/// How an account stands, as clients see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// Not tried since it was made or changed.
    New,
    /// The last try signed in.
    Connected,
    /// The server refuses the login.
    AuthenticationError,
    /// The server cannot be reached, or not be understood.
    ConnectError,
    /// There is no password that could be used: it must be set again.
    CredentialsMissing,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::New, Self::Connected, Self::AuthenticationError, Self::ConnectError, Self::CredentialsMissing];

    /// The name in the API and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Connected => "connected",
            Self::AuthenticationError => "authenticationError",
            Self::ConnectError => "connectError",
            Self::CredentialsMissing => "credentialsMissing",
        }
    }

    /// The state of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }
}

/// What happens to an account, as far as its state is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A setting that matters to the login was changed.
    Changed,
    /// A password was set, possibly with other settings.
    PasswordSet,
    /// A try signed in.
    SignedIn,
    /// The server refused the login: the password is wrong, or a provider's consent was taken back.
    Refused,
    /// A try failed before that: no connection, no TLS, no such protocol, or the server asks to come later.
    Failed,
}

/// A state, and how often in a row it was entered anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The state.
    pub state: State,
    /// Failures in a row that led to it.
    pub failures: u16,
}

/// What an event leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// The new standing.
    pub to: Standing,
    /// After which time the service tries again by itself; `None`: never, until something changes.
    pub next_try: Option<Duration>,
}

/// The one further try after a refusal comes this late. A stale password, retried, locks mailboxes and bans addresses.
pub const REFUSED_PAUSE: Duration = Duration::from_secs(15 * 60);
/// The shortest and the longest pause after failures to connect.
pub const FAILED_PAUSES: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(60 * 60));

impl Standing {
    /// Where an event leads. `interval` is the account's own, between two synchronisations; `chance`, from 0 to 1,
    /// spreads the tries of many accounts whose server failed at one moment.
    pub fn after(self, event: Event, interval: Duration, chance: f64) -> Move {
        let go = |state, failures, next_try| Move { to: Self { state, failures }, next_try };
        let more = self.failures.saturating_add(1);
        match (self.state, event) {
            (_, Event::PasswordSet) => go(State::New, 0, Some(Duration::ZERO)),
            // Without a password there is nothing to try, whatever else changes.
            (State::CredentialsMissing, _) => go(State::CredentialsMissing, 0, None),
            (_, Event::Changed) => go(State::New, 0, Some(Duration::ZERO)),
            (_, Event::SignedIn) => go(State::Connected, 0, Some(interval)),
            (State::AuthenticationError, Event::Refused) => go(State::AuthenticationError, more, None),
            (_, Event::Refused) => go(State::AuthenticationError, 1, Some(REFUSED_PAUSE)),
            // Who cannot be reached has not taken back the refusal; the try that is still owed is made later.
            (State::AuthenticationError, Event::Failed) => {
                go(State::AuthenticationError, self.failures, (self.failures < 2).then_some(REFUSED_PAUSE))
            }
            (State::ConnectError, Event::Failed) => go(State::ConnectError, more, Some(failed_pause(more, chance))),
            (State::New | State::Connected, Event::Failed) => go(State::ConnectError, 1, Some(failed_pause(1, chance))),
        }
    }
}

/// Doubles with each failure in a row, and strays by a fifth.
fn failed_pause(failures: u16, chance: f64) -> Duration {
    let (shortest, longest) = FAILED_PAUSES;
    // Beyond the sixth doubling the longest pause rules anyway.
    let doubled = shortest * (1 << failures.saturating_sub(1).min(6));
    doubled.min(longest).mul_f64(0.8 + 0.4 * chance.clamp(0.0, 1.0)).clamp(shortest, longest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const INTERVAL: Duration = Duration::from_secs(300);

    fn after(state: State, failures: u16, event: Event) -> (State, u16, Option<u64>) {
        let Move { to, next_try } = Standing { state, failures }.after(event, INTERVAL, 0.5);
        (to.state, to.failures, next_try.map(|pause| pause.as_secs()))
    }

    #[test]
    fn every_state_and_event_has_its_move() {
        use Event::*;
        use State::*;
        let table = [
            ((New, 0, Changed), (New, 0, Some(0))),
            ((New, 0, PasswordSet), (New, 0, Some(0))),
            ((New, 0, SignedIn), (Connected, 0, Some(300))),
            ((New, 0, Refused), (AuthenticationError, 1, Some(900))),
            ((New, 0, Failed), (ConnectError, 1, Some(60))),
            ((Connected, 0, Changed), (New, 0, Some(0))),
            ((Connected, 0, PasswordSet), (New, 0, Some(0))),
            ((Connected, 0, SignedIn), (Connected, 0, Some(300))),
            ((Connected, 0, Refused), (AuthenticationError, 1, Some(900))),
            ((Connected, 0, Failed), (ConnectError, 1, Some(60))),
            ((AuthenticationError, 1, Changed), (New, 0, Some(0))),
            ((AuthenticationError, 1, PasswordSet), (New, 0, Some(0))),
            ((AuthenticationError, 1, SignedIn), (Connected, 0, Some(300))),
            ((AuthenticationError, 1, Refused), (AuthenticationError, 2, None)),
            ((AuthenticationError, 2, Refused), (AuthenticationError, 3, None)),
            ((AuthenticationError, 1, Failed), (AuthenticationError, 1, Some(900))),
            ((AuthenticationError, 2, Failed), (AuthenticationError, 2, None)),
            ((ConnectError, 1, Changed), (New, 0, Some(0))),
            ((ConnectError, 1, PasswordSet), (New, 0, Some(0))),
            ((ConnectError, 1, SignedIn), (Connected, 0, Some(300))),
            ((ConnectError, 3, Refused), (AuthenticationError, 1, Some(900))),
            ((ConnectError, 1, Failed), (ConnectError, 2, Some(120))),
            ((ConnectError, 6, Failed), (ConnectError, 7, Some(3600))),
            ((ConnectError, u16::MAX, Failed), (ConnectError, u16::MAX, Some(3600))),
            ((CredentialsMissing, 0, Changed), (CredentialsMissing, 0, None)),
            ((CredentialsMissing, 0, PasswordSet), (New, 0, Some(0))),
            ((CredentialsMissing, 0, SignedIn), (CredentialsMissing, 0, None)),
            ((CredentialsMissing, 0, Refused), (CredentialsMissing, 0, None)),
            ((CredentialsMissing, 0, Failed), (CredentialsMissing, 0, None)),
        ];
        for ((state, failures, event), expected) in table {
            assert_eq!(after(state, failures, event), expected, "{state:?} {failures} {event:?}");
        }
        for state in State::ALL {
            assert_eq!(State::parse(state.as_str()), Some(state));
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
    }

    proptest! {
        #[test]
        fn pauses_stay_within_their_bounds(failures in 0u16.., chance in -1.0f64..2.0) {
            let standing = Standing { state: State::ConnectError, failures };
            let pause = standing.after(Event::Failed, INTERVAL, chance).next_try.unwrap();
            prop_assert!((FAILED_PAUSES.0..=FAILED_PAUSES.1).contains(&pause));
        }
    }
}
