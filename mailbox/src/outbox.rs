//! Sending: an account's messages that are due, start to end.
//!
//! Nothing is sent before the last dot of a message, and what is sent is sent once. So the database knows that the dot is about
//! to go out before it does: a worker that dies before that has sent nothing, and of one that died after it nobody knows. That is
//! settled by what lies in the sent folder, or by the user, and by no second attempt.

mod write;

use std::time::{Duration, Instant};

use ::mail::compose::{Composed, For};
use ::mail::connect::Session;
use ::mail::imap::{Features, Imap, NotFiled, Role};
use ::mail::login::Login;
use ::mail::smtp::{self, Commit, Kind, NotSignedIn, Outcome, Said, Transmission};
use ::mail::{Code, Error as MailError};
use shared::account::AccountId;
use shared::account::state::{Event, State};
use shared::db::outbox::{Claimed, Filed, Finish, Noted, Task};
use shared::db::secrets::Fault;
use shared::host_slots::Slot;
use shared::log::COUNTED;
use shared::outbox::{Answer, Delivery, Ending, Move, Reception, Status, Verdict, pause_after};
use shared::work::mail::MailJob;
use shared::work::{Done, Job, WorkError};

use crate::sync::{chance, now_ms};
use crate::tokens::{Key, TokenError, Tokens, Way};
use crate::{Host, OAUTH2, Settings};
pub use write::Files;
use write::{Bytes, NoBytes};

/// Beyond the function's time: what a lease outlasts, for clocks that differ.
const LEASE_SPARE: Duration = Duration::from_secs(30);
/// What a server may say in a session: replies, each of some KiB.
const SESSION_BYTES: u64 = 4 * 1024 * 1024;
/// What it may say where folders are listed and searched.
const FOLDER_BYTES: u64 = 64 * 1024 * 1024;
/// When a message has its turn whose server has as many connections of ours as it may have: twice that at the most.
const HOST_PAUSE: Duration = Duration::from_secs(20);
/// How long a token may take: longer than a refresh whose worker has died is waited for.
const TOKEN_TIME: Duration = Duration::from_secs(20);
/// How long a login that was refused is not tried again: a stale password, retried, locks mailboxes and bans addresses.
const REFUSED_PAUSE: Duration = Duration::from_secs(60);
/// The least that is left of the function's time for a message to be begun: a minute for the answer to the last dot, and
/// what comes before it.
const LEAST_TIME: Duration = Duration::from_secs(75);
/// The least that is left of it when the last dot goes out: after it nobody would know whether the server took the message.
const DOT_TIME: Duration = Duration::from_secs(30);
/// How long the sent folder may take, but for a copy, which may be as large as what was sent.
const FOLDER_TIME: Duration = Duration::from_secs(60);
/// After a note that failed; twice as long after each further one, up to [`LONGEST_NOTE_PAUSE`].
const NOTE_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_NOTE_PAUSE: Duration = Duration::from_secs(4);
/// How often the sent folder is looked at: for a day, see [`pause_after`].
const MAX_LOOKS: u32 = 27;
/// How many of them may end because the original cannot be marked as answered: nothing else waits for that for longer than some minutes.
const MARK_TRIES: u32 = 2;

/// As `lastError.service` has who takes messages.
const SMTP: &str = "smtp";

/// What a user reads where nothing else says why.
const NO_PASSWORD: &str = "There is no password for this account that could be used. Set it again.";
const NO_SERVER: &str = "This account cannot send: it has no smtpHostname. Set it, and try again.";
const NO_FILE: &str = "A file that goes along was never uploaded, or is gone.";
const TOO_SLOW: &str = "The mail server took too long until it had all of the message.";
/// As `claim_outgoing` writes it (V19) of a message whose worker has died after the last dot.
const INTERRUPTED: &str = "The service was interrupted while the mail server took the message.";
const FOUND: &str = "The mail server had taken the message: it lies in the sent folder.";

/// Sends what an account has to send, until nothing is due or it is time to make room for others.
///
/// # Errors
/// What is our fault. What a mail host does wrong becomes the message's state.
pub async fn run(job: &MailJob<Way>, files: &Files) -> Result<Done, WorkError> {
    let MailJob { job: Job { scope, account_id, stop_at, ends_at, .. }, db, .. } = job;
    loop {
        let now = Instant::now();
        let left = ends_at.saturating_duration_since(now);
        // A function with little time gives each message a part of it, as its jobs get of everything.
        if now >= *stop_at || left < LEAST_TIME.min(ends_at.saturating_duration_since(*stop_at)) {
            return Ok(Done::More);
        }
        let Some(claimed) = db.claim_outgoing(scope, *account_id, left + LEASE_SPARE).await? else {
            return Ok(Done::Complete);
        };
        let noted = match claimed.task {
            Task::Send => send(job, files, claimed).await?,
            Task::Look | Task::Copy => look(job, files, claimed).await?,
        };
        if !noted.is_more {
            return Ok(Done::Complete);
        }
    }
}

/// How an attempt went.
struct Attempt {
    answers: Vec<Option<Answer>>,
    ending: Ending,
    /// What the account is told of its login, and by whom it was refused.
    refused: Option<(MailError, &'static str)>,
    /// What is still to be signed out of.
    session: Option<smtp::Smtp>,
}

impl Attempt {
    fn ended(ending: Ending) -> Self {
        Self { answers: Vec::new(), ending, refused: None, session: None }
    }

    /// Before anybody has signed in.
    fn failed(service: &'static str, error: MailError) -> Self {
        log_failure(service, &error);
        let words = error.message.clone();
        match error.code {
            Code::Authentication | Code::ConsentRevoked => {
                Self { refused: Some((error, service)), ..Self::ended(Ending::NoLogin(words)) }
            }
            _ => Self::ended(Ending::Broken(words)),
        }
    }

    /// As [`Self::failed`], at the server that takes messages.
    fn not_signed_in(NotSignedIn { error, kind }: NotSignedIn) -> Self {
        match kind.map(verdict) {
            Some(verdict @ (Verdict::Policy | Verdict::Limit)) => {
                log_failure(SMTP, &error);
                Self::ended(Ending::Held(Answer { verdict, words: error.message }))
            }
            _ => Self::failed(SMTP, error),
        }
    }
}

fn verdict(kind: Kind) -> Verdict {
    match kind {
        Kind::Yes => Verdict::Yes,
        Kind::Later => Verdict::Later,
        Kind::Policy => Verdict::Policy,
        Kind::Limit => Verdict::Limit,
        Kind::Never => Verdict::Never,
    }
}

fn answer(said: &Said) -> Answer {
    Answer { verdict: verdict(said.kind()), words: said.words.clone() }
}

/// Tries to send a message, and notes what came of it.
async fn send(job: &MailJob<Way>, files: &Files, claimed: Claimed) -> Result<Noted, WorkError> {
    let (attempt, slot) = match attempt(job, files, &claimed).await? {
        Some(tried) => tried,
        None => {
            let recipients = &claimed.outgoing.recipients;
            let finish = Finish {
                status: Status::Queued,
                recipients,
                doubtful: &[],
                response: claimed.outgoing.response.as_deref(),
                filed: claimed.filed,
                looks: claimed.looks,
                // Those who wait for one host do not come back all at once.
                pause: Some(HOST_PAUSE.mul_f64(1.0 + chance(claimed.stored.account.id))),
                hold: None,
                is_untried: true,
            };
            return note(job, &claimed, &finish).await;
        }
    };
    // The server's goodbye is waited for while what came of the message is noted.
    let goodbye = async {
        if let Some(smtp) = attempt.session {
            smtp.sign_out().await;
        }
        if let Some(slot) = slot {
            job.slots.give_back(slot).await;
        }
    };
    if let Some((error, service)) = &attempt.refused {
        let fault = Fault { code: error.code.as_str(), message: &error.message, service };
        // The message's own end counts more: it is noted whatever becomes of this.
        if let Err(error) = job.db.record_try(&job.job.scope, &claimed.stored, Event::Refused, Some(fault)).await {
            tracing::warn!(error = format!("{error:#}"), "the account does not learn of its login");
        }
    }
    let delivery = Delivery { recipients: claimed.outgoing.recipients.clone(), tried_for: claimed.tried_for };
    let settled = settle(job, claimed, delivery.after(&attempt.answers, attempt.ending));
    let (noted, ()) = tokio::join!(settled, goodbye);
    noted
}

/// Notes what came of a message, and that the sender's copy is to be made where it was taken.
async fn settle(job: &MailJob<Way>, claimed: Claimed, to: Move) -> Result<Noted, WorkError> {
    let Some(status) = claimed.outgoing.status.after(to.step) else {
        return Err(anyhow::anyhow!("{:?} is no step from {:?}", to.step, claimed.outgoing.status).into());
    };
    let is_taken = to.recipients.iter().any(|recipient| recipient.status == Reception::Accepted);
    // What was found in the sent folder is there; what it answers is still to be marked.
    let filed = match (claimed.filed, claimed.outgoing.status) {
        (Filed::None, Status::Uncertain) if is_taken && claimed.answered.is_none() => Filed::Done,
        (Filed::None, _) if is_taken && has_mailbox_to_do(&claimed) => Filed::Due,
        (filed, _) => filed,
    };
    let pause = match (status, filed) {
        (Status::Queued, _) => to.pause,
        (Status::Sent | Status::Failed | Status::Uncertain, Filed::Due) => Some(Duration::ZERO),
        (Status::Uncertain, _) => can_be_found(&claimed, &to.doubtful).then_some(pause_after(1)),
        _ => None,
    };
    log_try(&claimed, status, &to.response);
    let finish = Finish {
        status,
        recipients: &to.recipients,
        doubtful: &to.doubtful,
        response: Some(&to.response),
        filed,
        looks: 0,
        pause,
        hold: to.hold,
        is_untried: false,
    };
    note(job, &claimed, &finish).await
}

/// The alarms outbox-uncertain and outbox-rejected count these lines by their status.
fn log_try(claimed: &Claimed, status: Status, response: &str) {
    tracing::info!(
        target: COUNTED,
        outgoingId = %claimed.outgoing.id,
        accountId = %claimed.stored.account.id,
        status = status.as_str(),
        attempts = claimed.outgoing.attempts,
        response,
        "message_tried"
    );
}

/// Gives a message back. A database that is away is asked again for as long as the function has time: what the server has said
/// to a message, and is not noted, nobody will ever know.
async fn note(job: &MailJob<Way>, claimed: &Claimed, finish: &Finish<'_>) -> Result<Noted, WorkError> {
    let mut pause = NOTE_PAUSE;
    loop {
        match job.db.finish_outgoing(claimed, finish).await {
            Err(error) if Instant::now() + pause < job.job.ends_at => {
                tracing::warn!(error = format!("{error:#}"), outgoingId = %claimed.outgoing.id, "the end of an attempt is not noted yet");
                tokio::time::sleep(pause).await;
                pause = (2 * pause).min(LONGEST_NOTE_PAUSE);
            }
            noted => {
                let noted = noted?;
                if !noted.is_noted {
                    tracing::info!(outgoingId = %claimed.outgoing.id, "a message was taken from its worker");
                }
                return Ok(noted);
            }
        }
    }
}

/// With what it has of the host's connections. `None`: nothing was tried, and it is to be later.
async fn attempt(
    job: &MailJob<Way>,
    files: &Files,
    claimed: &Claimed,
) -> Result<Option<(Attempt, Option<Slot>)>, WorkError> {
    let without_host = |attempt: Attempt| Ok(Some((attempt, None)));
    let account = &claimed.stored.account;
    if account.smtp_hostname.is_none() {
        return without_host(Attempt::ended(Ending::NoLogin(NO_SERVER.into())));
    }
    let refused = account.last_error.as_ref().filter(|_| account.state == State::AuthenticationError);
    // Who sends with a login of its own is not refused where mail is read.
    let has_own = account.smtp_username.is_some() || claimed.stored.sealed.smtp_password.is_some();
    let refused = refused.filter(|error| !has_own || [SMTP, OAUTH2].contains(&error.service.as_str()));
    let just_now = i64::try_from(REFUSED_PAUSE.as_millis()).unwrap_or(i64::MAX);
    if let Some(refused) = refused.filter(|error| error.at.saturating_add(just_now) > now_ms()) {
        return without_host(Attempt::ended(Ending::NoLogin(refused.message.clone())));
    }
    let tokens = Tokens::of_job(job);
    let deadline = || tokio::time::Instant::now() + TOKEN_TIME;
    let key = match Key::new(&tokens, account, &claimed.stored.sealed, deadline()).await {
        Ok(Some(key)) => key,
        Ok(None) => return without_host(Attempt::ended(Ending::NoLogin(NO_PASSWORD.into()))),
        Err(TokenError::Provider(error)) => return without_host(Attempt::failed(OAUTH2, error)),
        Err(TokenError::Service(error)) => return Err(error.into()),
    };
    let Some(host) = key.settings.smtp_host().map(str::to_owned) else {
        return without_host(Attempt::ended(Ending::NoLogin(NO_SERVER.into())));
    };
    let left = job.job.ends_at.saturating_duration_since(Instant::now());
    let Some(slot) = job.slots.take(&host, left).await else {
        log_busy(account.id, &host);
        return Ok(None);
    };
    let mut attempt = hand_over(job, files, claimed, &key.settings).await;
    if matches!(&attempt, Ok(Attempt { ending: Ending::NoLogin(_), .. })) {
        match key.renewed(&tokens, account, deadline()).await {
            Ok(Some(key)) => attempt = hand_over(job, files, claimed, &key.settings).await,
            Ok(None) => {}
            Err(TokenError::Provider(error)) => attempt = Ok(Attempt::failed(OAUTH2, error)),
            Err(TokenError::Service(error)) => attempt = Err(error.into()),
        }
    }
    match attempt {
        Ok(attempt) => Ok(Some((attempt, Some(slot)))),
        Err(error) => {
            job.slots.give_back(slot).await;
            Err(error)
        }
    }
}

/// Signs in, and hands the message over.
async fn hand_over(
    job: &MailJob<Way>,
    files: &Files,
    claimed: &Claimed,
    settings: &Settings,
) -> Result<Attempt, WorkError> {
    let session = Session { deadline: job.job.ends_at.into(), bytes: SESSION_BYTES };
    let sign_in = settings.sign_in_to_send(&job.network.connector, session);
    // The message is written while the network is waited for.
    let (signed_in, composed) = tokio::join!(sign_in, async { write::compose(claimed, files, For::Readers) });
    let Some((composed, mut bytes)) = composed else {
        return Ok(Attempt::ended(Ending::NoLogin(NO_FILE.into())));
    };
    let (mut smtp, login) = match signed_in {
        Ok(signed_in) => signed_in,
        Err(failure) => return Ok(Attempt::not_signed_in(failure)),
    };
    let (answers, ending) = converse(job, claimed, &mut smtp, &login, &composed, &mut bytes).await?;
    let session = matches!(ending, Ending::Answered(_)).then_some(smtp);
    Ok(Attempt { answers, ending, refused: None, session })
}

async fn converse(
    job: &MailJob<Way>,
    claimed: &Claimed,
    smtp: &mut smtp::Smtp,
    login: &Login,
    composed: &Composed,
    bytes: &mut Bytes,
) -> Result<(Vec<Option<Answer>>, Ending), WorkError> {
    let asked: Vec<usize> = pending(claimed);
    let recipients = write::addresses(claimed, &asked);
    let sender = ::mail::compose::ascii_address(&claimed.outgoing.from.address);
    let id = claimed.outgoing.id.to_string();
    let envelope = smtp::Envelope {
        sender: &sender,
        recipients: &recipients,
        size: composed.size,
        id: &id,
        needs_utf8: composed.needs_utf8,
    };
    let offer = smtp.offer(login, &envelope).await;
    let answers: Vec<_> = offer.recipients.iter().map(|said| said.as_ref().map(answer)).collect();
    match offer.outcome {
        Outcome::GoAhead => {}
        Outcome::Refused(said) => return Ok((answers, Ending::Answered(answer(&said)))),
        Outcome::Broken(error) => return Ok((answers, broken(&error))),
    }
    match smtp.transmit(login, bytes).await {
        Transmission::Ready => {}
        Transmission::Refused(said) => return Ok((answers, Ending::Answered(answer(&said)))),
        Transmission::Broken(error) => return Ok((answers, broken(&error))),
        // Nothing is sent: without the last dot the server forgets what it has heard.
        Transmission::NoBody(NoBytes::Gone) => return Ok((answers, Ending::NoLogin(NO_FILE.into()))),
        Transmission::NoBody(NoBytes::Away(error)) => {
            tracing::warn!(error = format!("{error:#}"), outgoingId = %claimed.outgoing.id, "a file cannot be read");
            return Ok((answers, Ending::Broken("The service could not read a file that goes along.".into())));
        }
    }
    let is_yes = |answer: &Option<Answer>| answer.as_ref().is_some_and(|answer| answer.verdict == Verdict::Yes);
    let doubtful: Vec<_> =
        asked.iter().zip(&answers).filter(|(_, answer)| is_yes(answer)).map(|(place, _)| *place).collect();
    let left = || job.job.ends_at.saturating_duration_since(Instant::now());
    // As at the beginning, a function with little time gives it a part of that.
    if left() < DOT_TIME.min(job.job.ends_at.saturating_duration_since(job.job.stop_at)) {
        return Ok((answers, Ending::Broken(TOO_SLOW.into())));
    }
    match job.db.commit_outgoing(claimed, &doubtful).await {
        Ok(true) => {}
        // Who has taken it meanwhile finds that nothing was sent; this worker notes nothing any more.
        Ok(false) => return Ok((answers, Ending::Broken("The message was taken from its worker.".into()))),
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), outgoingId = %claimed.outgoing.id, "a message is not sent: it would not be known");
            return Ok((answers, Ending::Broken("The service could not note that it sends the message.".into())));
        }
    }
    match smtp.commit(login, left()).await {
        Commit::Answered(said) => Ok((answers, Ending::Answered(answer(&said)))),
        Commit::Broken(error) => Ok((answers, broken(&error))),
        Commit::Lost(error) => {
            tracing::warn!(detail = error.detail, outgoingId = %claimed.outgoing.id, "nobody knows whether a message was sent");
            let words = "The connection was lost while the mail server took the message. It may have been sent.";
            Ok((answers, Ending::Lost(words.into())))
        }
    }
}

fn broken(error: &MailError) -> Ending {
    log_failure(SMTP, error);
    Ending::Broken(error.message.clone())
}

fn log_failure(service: &'static str, error: &MailError) {
    tracing::info!(target: COUNTED, service, code = error.code.as_str(), detail = error.detail, "send_failed");
}

/// The alarm outbox-hosts-busy counts these lines.
fn log_busy(account_id: AccountId, host: &str) {
    tracing::info!(target: COUNTED, accountId = %account_id, host, "host_busy");
}

fn pending(claimed: &Claimed) -> Vec<usize> {
    let recipients = claimed.outgoing.recipients.iter().enumerate();
    recipients.filter(|(_, recipient)| recipient.status == Reception::Pending).map(|(place, _)| place).collect()
}

fn is_pop3(claimed: &Claimed) -> bool {
    claimed.stored.account.protocol != "imap"
}

/// Whether the sent folder can tell that a message was sent of which nobody knows, for those with these places. Where an
/// earlier attempt has reached somebody, or may have and was for others, the copy that lies there may be of that one.
fn can_be_found(claimed: &Claimed, doubtful: &[usize]) -> bool {
    let mut recipients = claimed.outgoing.recipients.iter();
    let are_the_same = claimed.doubted.as_ref().is_none_or(|all| doubtful.iter().all(|place| all.contains(place)));
    !is_pop3(claimed) && are_the_same && recipients.all(|recipient| recipient.status != Reception::Accepted)
}

/// Whether something is to be done in the mailbox when the message is sent: to file the copy, or to mark what was answered.
/// POP3 has neither.
fn has_mailbox_to_do(claimed: &Claimed) -> bool {
    !is_pop3(claimed) && (is_filed_by_us(claimed) || claimed.answered.is_some())
}

/// Whether the sender's copy is ours to make: not where the provider files what is sent by it.
fn is_filed_by_us(claimed: &Claimed) -> bool {
    !files_itself(claimed.stored.account.smtp_hostname.as_deref().unwrap_or_default())
}

/// Gmail and Exchange Online, its sovereign clouds too, put what is submitted into the sent folder; Google's relay for companies
/// does not.
fn files_itself(smtp_host: &str) -> bool {
    const HOSTS: [&str; 7] = [
        "gmail.com",
        "googlemail.com",
        "office365.com",
        "office365.us",
        "outlook.com",
        "partner.outlook.cn",
        "hotmail.com",
    ];
    let host = smtp_host.trim_end_matches('.').to_ascii_lowercase();
    host != "smtp-relay.gmail.com"
        && HOSTS.iter().any(|own| host.strip_suffix(own).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
}

/// What a look into the sent folder came to.
enum Seen {
    /// It is there, by now.
    There,
    /// It is not, and no copy was to be made.
    Missing,
    /// There is no such folder, or nothing to put there.
    NoFolder,
}

/// Looks into the sent folder: for a message of which nobody knows, or to put the sender's copy there.
async fn look(job: &MailJob<Way>, files: &Files, claimed: Claimed) -> Result<Noted, WorkError> {
    let (is_first, response) = (claimed.looks == 0, claimed.outgoing.response.as_deref());
    if let Some(INTERRUPTED) = response.filter(|_| is_first && claimed.outgoing.status == Status::Uncertain) {
        // Its worker has not lived to say so.
        log_try(&claimed, claimed.outgoing.status, INTERRUPTED);
    }
    let is_in_vain = match claimed.task {
        Task::Look => !can_be_found(&claimed, &claimed.doubtful),
        Task::Copy | Task::Send => is_pop3(&claimed),
    };
    let visit = async {
        match is_in_vain {
            true => Ok(Seen::NoFolder),
            false => visit(job, files, &claimed).await,
        }
    };
    let seen = match Box::pin(visit).await {
        Ok(seen) => Some(seen),
        Err(Stop::Host(error)) => {
            tracing::info!(code = error.code.as_str(), detail = error.detail, outgoingId = %claimed.outgoing.id, "look_failed");
            None
        }
        Err(Stop::Internal(error)) => return Err(error),
    };
    if let (Task::Look, Some(Seen::There)) = (claimed.task, &seen) {
        let delivery = Delivery { recipients: claimed.outgoing.recipients.clone(), tried_for: claimed.tried_for };
        let doubtful = claimed.doubtful.clone();
        return settle(job, claimed, delivery.found(&doubtful, FOUND.into())).await;
    }
    let looks = claimed.looks + 1;
    let is_over = looks >= MAX_LOOKS;
    let (filed, again) = match (claimed.task, seen) {
        (Task::Copy, Some(Seen::There)) => (Filed::Done, false),
        (Task::Copy, Some(Seen::NoFolder)) => (Filed::Abandoned, false),
        (Task::Copy, _) if is_over => (Filed::Abandoned, false),
        (Task::Copy, _) => (Filed::Due, true),
        // Where there is no such folder, there will be none.
        (_, Some(Seen::NoFolder)) => (claimed.filed, false),
        (_, _) => (claimed.filed, !is_over),
    };
    if filed == Filed::Abandoned {
        tracing::warn!(outgoingId = %claimed.outgoing.id, accountId = %claimed.stored.account.id, "copy_abandoned");
    }
    let finish = Finish {
        status: claimed.outgoing.status,
        recipients: &claimed.outgoing.recipients,
        doubtful: &claimed.doubtful,
        response: claimed.outgoing.response.as_deref(),
        filed,
        looks,
        pause: again.then(|| pause_after(looks)),
        hold: None,
        is_untried: false,
    };
    note(job, &claimed, &finish).await
}

/// Why nobody knows what is in the sent folder.
enum Stop {
    Host(MailError),
    Internal(WorkError),
}

impl From<MailError> for Stop {
    fn from(error: MailError) -> Self {
        Self::Host(error)
    }
}

impl From<TokenError> for Stop {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Provider(error) => Self::Host(error),
            TokenError::Service(error) => Self::Internal(error.into()),
        }
    }
}

async fn visit(job: &MailJob<Way>, files: &Files, claimed: &Claimed) -> Result<Seen, Stop> {
    let (account, tokens) = (&claimed.stored.account, Tokens::of_job(job));
    let deadline = || tokio::time::Instant::now() + TOKEN_TIME;
    let unavailable = |detail: &str| Stop::Host(MailError::new(Code::Unavailable, detail));
    if account.state == State::AuthenticationError {
        return Err(unavailable("the login was refused"));
    }
    let key = Key::new(&tokens, account, &claimed.stored.sealed, deadline()).await?;
    let key = key.ok_or_else(|| unavailable("there is no password"))?;
    let left = job.job.ends_at.saturating_duration_since(Instant::now());
    let time = if claimed.task == Task::Copy { left } else { left.min(FOLDER_TIME) };
    let host = &key.settings.incoming.host;
    let Some(slot) = job.slots.take(host, time).await else {
        log_busy(account.id, host);
        return Err(unavailable("the host has as many connections as it may have"));
    };
    let end = Instant::now() + time;
    let session = Session { deadline: end.into(), bytes: FOLDER_BYTES };
    let seen = async {
        let mut host = key.settings.sign_in(&job.network.connector, session).await?;
        let seen = look_into(&mut host, files, claimed).await?;
        host.sign_out().await;
        Ok(seen)
    };
    let seen = seen.await;
    job.slots.give_back(slot).await;
    seen
}

async fn look_into(host: &mut Host, files: &Files, claimed: &Claimed) -> Result<Seen, Stop> {
    let Host::Imap(imap, features) = host else { return Ok(Seen::NoFolder) };
    if claimed.task == Task::Copy {
        // Before the copy: that is made once, and nobody would know whether it was.
        mark(imap, features, claimed).await?;
    }
    let folders = imap.list(features).await?;
    let sent = folders.iter().find(|folder| folder.role == Some(Role::Sent));
    Ok(match (claimed.task, sent) {
        (Task::Copy, _) if !is_filed_by_us(claimed) => Seen::There,
        (Task::Copy, None) => match imap.create_sent(features, &folders).await {
            Ok(made) => file(imap, &made, files, claimed).await?,
            Err(error) if error.code == Code::MailboxMissing => {
                tracing::info!(detail = error.detail, outgoingId = %claimed.outgoing.id, "no_sent_folder");
                Seen::NoFolder
            }
            Err(error) => return Err(error.into()),
        },
        (_, None) => Seen::NoFolder,
        (task, Some(sent)) => {
            let (id, since) = (&claimed.outgoing.message_id, claimed.dated_at / 1000);
            match imap.has_message_id(features, &sent.wire, id, since).await? {
                true => Seen::There,
                false if task == Task::Copy => file(imap, &sent.wire, files, claimed).await?,
                false => Seen::Missing,
            }
        }
    })
}

/// Its user sees that the original was answered. Where that fails all is done again, but not for ever.
async fn mark(imap: &mut Imap, features: &Features, claimed: &Claimed) -> Result<(), Stop> {
    let Some(answered) = &claimed.answered else { return Ok(()) };
    match imap.mark_answered(features, &answered.folder, answered.uid_validity, answered.uid).await {
        Ok(()) => Ok(()),
        Err(error) => {
            tracing::info!(detail = error.detail, outgoingId = %claimed.outgoing.id, "answered_not_marked");
            let is_final = error.code == Code::MailboxMissing || claimed.looks >= MARK_TRIES;
            if is_final { Ok(()) } else { Err(error.into()) }
        }
    }
}

/// Puts the sender's copy into a folder.
async fn file(imap: &mut Imap, folder: &[u8], files: &Files, claimed: &Claimed) -> Result<Seen, Stop> {
    let Some((composed, mut bytes)) = write::compose(claimed, files, For::Sender) else { return Ok(Seen::NoFolder) };
    imap.append(folder, composed.size, &mut bytes).await.map_err(|failure| match failure {
        NotFiled::Host(error) => Stop::Host(error),
        NotFiled::NoBody(_) => Stop::Host(MailError::new(Code::Unavailable, "a file cannot be read")),
    })?;
    Ok(Seen::There)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn providers_that_file_what_is_sent_are_known_by_their_hosts() {
        for host in [
            "smtp.gmail.com",
            "SMTP.Office365.com.",
            "smtp.office365.us",
            "smtp-mail.outlook.com",
            "smtp.partner.outlook.cn",
            "smtp.googlemail.com",
        ] {
            assert!(files_itself(host), "{host}");
        }
        for host in
            ["smtp.example.com", "smtp-relay.gmail.com", "notgmail.com", "notoffice365.us", "gmail.com.example.org", ""]
        {
            assert!(!files_itself(host), "{host}");
        }
    }
}
