use proptest::prelude::*;
use serde_json::json;

use super::*;

#[test]
fn every_status_and_step_has_its_move_or_none() {
    use Status::*;
    use Step::*;
    // In the order of Step::ALL: begun, delayed, accepted, refused, given up, lost, canceled, retried.
    let table = [
        (Scheduled, [Some(Sending), None, None, None, None, None, Some(Status::Canceled), None]),
        (Queued, [Some(Sending), None, None, None, None, None, Some(Status::Canceled), None]),
        (Sending, [Some(Sending), Some(Queued), Some(Sent), Some(Rejected), Some(Failed), Some(Uncertain), None, None]),
        (Sent, [None; 8]),
        (Rejected, [None; 8]),
        (Failed, [None, None, None, None, None, None, None, Some(Queued)]),
        (Uncertain, [None, Some(Queued), Some(Sent), None, None, None, None, Some(Queued)]),
        (Status::Canceled, [None; 8]),
    ];
    assert_eq!(table.map(|(status, _)| status), Status::ALL);
    for (status, moves) in table {
        for (step, expected) in Step::ALL.into_iter().zip(moves) {
            assert_eq!(status.after(step), expected, "{status:?} {step:?}");
        }
        assert_eq!(Status::parse(status.as_str()), Some(status));
        assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
    }
    // What nobody knows is never sent again by itself.
    assert_eq!(Uncertain.after(Begun), None);
    assert_eq!(Delayed, Step::ALL[1]);
}

fn recipient(status: Reception) -> Recipient {
    Recipient { address: "jane@example.com".into(), status, response: None }
}

fn answer(verdict: Verdict) -> Answer {
    Answer { verdict, words: format!("{verdict:?}") }
}

const VERDICTS: [Verdict; 5] = [Verdict::Yes, Verdict::Later, Verdict::Policy, Verdict::Limit, Verdict::Never];
const MINUTE: Duration = Duration::from_secs(60);

/// Of recipients that are pending, after so many minutes.
fn attempt(answers: &[Option<Verdict>], ending: Ending, minutes: u32) -> Move {
    let recipients = answers.iter().map(|_| recipient(Reception::Pending)).collect();
    let answers: Vec<_> = answers.iter().map(|verdict| verdict.map(answer)).collect();
    Delivery { recipients, tried_for: MINUTE * minutes }.after(&answers, ending)
}

fn is(moved: &Move) -> (Step, Vec<Reception>, Option<u64>) {
    let receptions = moved.recipients.iter().map(|recipient| recipient.status).collect();
    (moved.step, receptions, moved.pause.map(|pause| pause.as_secs() / 60))
}

#[test]
fn every_end_of_an_attempt_has_its_move() {
    use Reception::*;
    use Verdict::*;
    let answered = |verdict| Ending::Answered(answer(verdict));
    let broken = || Ending::Broken("no connection".into());
    let held = |verdict| Ending::Held(answer(verdict));
    let yes = Some(Yes);
    for (answers, ending, minutes, expected) in [
        (vec![yes], answered(Yes), 0, (Step::Accepted, vec![Accepted], None)),
        // Each recipient for itself.
        (vec![yes, Some(Never)], answered(Yes), 0, (Step::Accepted, vec![Accepted, Rejected], None)),
        (vec![yes, Some(Later)], answered(Yes), 0, (Step::Delayed, vec![Accepted, Pending], Some(1))),
        (vec![Some(Never), Some(Later)], answered(Later), 1, (Step::Delayed, vec![Rejected, Pending], Some(5))),
        (vec![Some(Never), Some(Never)], answered(Never), 0, (Step::Refused, vec![Rejected, Rejected], None)),
        // The sender, the wish to send, or the message: for all that were not refused themselves.
        (vec![None, None], answered(Never), 0, (Step::Refused, vec![Rejected, Rejected], None)),
        (vec![None], answered(Later), 6, (Step::Delayed, vec![Pending], Some(15))),
        (vec![yes, Some(Never)], answered(Never), 0, (Step::Refused, vec![Rejected, Rejected], None)),
        (vec![yes, Some(Never)], answered(Later), 21, (Step::Delayed, vec![Pending, Rejected], Some(60))),
        // Nothing was sent.
        (vec![yes, Some(Never)], broken(), 400, (Step::Delayed, vec![Pending, Rejected], Some(60))),
        (vec![None], broken(), 24 * 60 - 59, (Step::GivenUp, vec![Pending], None)),
        (vec![yes, Some(Later)], answered(Yes), 24 * 60, (Step::Accepted, vec![Accepted, Rejected], None)),
        (vec![None], Ending::NoLogin("bad password".into()), 0, (Step::GivenUp, vec![Pending], None)),
        // Nobody knows, but of those that were refused.
        (vec![yes, Some(Never)], Ending::Lost("gone".into()), 0, (Step::Lost, vec![Pending, Rejected], None)),
        // A limit takes longer to pass, a policy perhaps.
        (vec![None], answered(Limit), 0, (Step::Delayed, vec![Pending], Some(60))),
        (vec![Some(Policy), Some(Limit)], answered(Yes), 0, (Step::Delayed, vec![Pending, Pending], Some(60))),
        (vec![None], answered(Policy), 0, (Step::Delayed, vec![Pending], Some(1))),
        (vec![Some(Policy)], answered(Policy), 70 * 60, (Step::Delayed, vec![Pending], Some(60))),
        (vec![Some(Policy)], answered(Policy), 71 * 60 + 1, (Step::GivenUp, vec![Pending], None)),
        (vec![Some(Limit)], answered(Limit), 24 * 60, (Step::Delayed, vec![Pending], Some(60))),
        (vec![None], answered(Limit), 71 * 60 + 1, (Step::GivenUp, vec![Pending], None)),
        // At the sign-in as well.
        (vec![None, None], held(Policy), 0, (Step::Delayed, vec![Pending, Pending], Some(1))),
        (vec![None], held(Policy), 70 * 60, (Step::Delayed, vec![Pending], Some(60))),
        (vec![None], held(Policy), 71 * 60 + 1, (Step::GivenUp, vec![Pending], None)),
        (vec![None], held(Limit), 0, (Step::Delayed, vec![Pending], Some(60))),
        (vec![None], held(Limit), 71 * 60 + 1, (Step::GivenUp, vec![Pending], None)),
    ] {
        let context = format!("{answers:?} {ending:?} {minutes}");
        let moved = attempt(&answers, ending, minutes);
        assert_eq!(is(&moved), expected, "{context}");
        assert!(Status::Sending.after(moved.step).is_some(), "{context}");
    }
    assert_eq!(attempt(&[Some(Limit)], answered(Limit), 0).hold, Some(LIMIT_PAUSE));
    assert_eq!(attempt(&[Some(Policy), None], answered(Later), 0).hold, Some(MINUTE));
    assert_eq!(attempt(&[yes, Some(Policy)], answered(Yes), 0).hold, None);
    assert_eq!(attempt(&[yes, Some(Limit)], answered(Yes), 0).hold, Some(LIMIT_PAUSE));
    assert_eq!(attempt(&[yes, Some(Later)], answered(Yes), 0).hold, None);
    assert_eq!(attempt(&[None], broken(), 0).hold, None);
    assert_eq!(attempt(&[None], held(Policy), 0).hold, Some(MINUTE));
    assert_eq!(attempt(&[None], held(Limit), 0).hold, Some(LIMIT_PAUSE));
    // Whoever has got it at an earlier attempt.
    let recipients = [Accepted, Pending].map(recipient).into();
    assert_eq!(Delivery { recipients, tried_for: MINUTE }.after(&[], held(Policy)).hold, Some(5 * MINUTE));
    assert_eq!(attempt(&[yes, Some(Later)], Ending::Lost("gone".into()), 0).doubtful, [0]);
    let words = |moved: &Move| moved.recipients[0].response.clone();
    assert_eq!(words(&attempt(&[yes], answered(Yes), 0)).as_deref(), Some("Yes"));
    assert_eq!(words(&attempt(&[yes], broken(), 0)), None);
}

#[test]
fn who_was_decided_is_not_asked_again() {
    let recipients = [Reception::Accepted, Reception::Pending, Reception::Rejected, Reception::Pending].map(recipient);
    let delivery = Delivery { recipients: recipients.into(), tried_for: MINUTE };
    assert_eq!(delivery.asked(), [1, 3]);
    let answers = [Some(answer(Verdict::Never)), Some(answer(Verdict::Yes))];
    let moved = delivery.after(&answers, Ending::Answered(answer(Verdict::Yes)));
    let expected = vec![Reception::Accepted, Reception::Rejected, Reception::Rejected, Reception::Accepted];
    assert_eq!(is(&moved), (Step::Accepted, expected, None));
}

#[test]
fn what_lies_in_the_sent_folder_was_sent_to_those_it_was_offered_for() {
    let found = |second, minutes| {
        let recipients = vec![recipient(Reception::Pending), recipient(second)];
        let moved = Delivery { recipients, tried_for: MINUTE * minutes }.found(&[0], "found".into());
        assert!(Status::Uncertain.after(moved.step).is_some() && moved.doubtful.is_empty());
        is(&moved)
    };
    use Reception::*;
    assert_eq!(found(Rejected, 0), (Step::Accepted, vec![Accepted, Rejected], None));
    assert_eq!(found(Pending, 0), (Step::Delayed, vec![Accepted, Pending], Some(1)));
    assert_eq!(found(Pending, 24 * 60), (Step::Accepted, vec![Accepted, Rejected], None));
}

const ID: &str = "01990000-0000-7000-8000-000000000000";

fn read(changes: Value) -> Result<NewOutgoing, Error> {
    let mut body = json!({"accountId": ID, "to": [{"address": "jane@example.com"}]});
    for (name, value) in changes.as_object().unwrap() {
        body[name] = value.clone();
    }
    NewOutgoing::read(Fields::new(body.as_object().unwrap().clone()), 1000)
}

#[test]
fn a_message_has_a_sender_and_a_recipient_and_is_no_reply_that_is_a_forward() {
    let faults = |changes: Value| -> Vec<String> {
        let Err(Error::Invalid(faults)) = read(changes.clone()) else { panic!("{changes}") };
        faults.iter().map(|fault| fault.field.to_string()).collect()
    };
    assert_eq!(faults(json!({"accountId": null, "to": null})), ["accountId", "to"]);
    assert_eq!(faults(json!({"accountId": "x", "to": [{"address": "x"}]})), ["accountId", "to[0].address"]);
    assert_eq!(faults(json!({"replyToId": ID, "forwardOfId": ID})), ["forwardOfId"]);
    let people = json!({"to": [{"address": "Jane@example.com"}], "bcc": [{"address": "jane@EXAMPLE.com"}, {"address": "b@x.de"}]});
    let recipients = read(people).unwrap().recipients();
    assert_eq!(recipients.iter().map(|r| r.address.as_str()).collect::<Vec<_>>(), ["Jane@example.com", "b@x.de"]);
    assert!(read(json!({"to": [], "cc": [{"address": "jane@example.com"}]})).is_ok());
}

#[test]
fn pauses_grow_and_stay() {
    let minutes = [1, 2, 3, 4, 5, 99].map(|times| pause_after(times).as_secs() / 60);
    assert_eq!(minutes, [1, 5, 15, 60, 60, 60]);
    // An attempt takes some seconds, and then the pause.
    let mut tried_for = Duration::ZERO;
    for minutes in [1, 5, 15, 60, 60, 60] {
        let pause = pause_in(tried_for);
        assert_eq!(pause.as_secs(), minutes * 60, "{tried_for:?}");
        tried_for += Duration::from_secs(5) + pause;
    }
}

proptest! {
    #[test]
    fn a_cursor_comes_back_as_it_was_and_is_no_other_lists(created_at: i64, id: u128) {
        let cursor = OutboxCursor { created_at, id: OutgoingId(uuid::Uuid::from_u128(id)) };
        let text = serde_json::to_value(cursor).unwrap();
        prop_assert_eq!(OutboxCursor::read(text.clone()), Some(cursor));
        prop_assert_eq!(Cursor::read(text), None);
    }

    /// Whatever answers come: nobody is forgotten, who was decided stays so, and what is lost is not tried.
    #[test]
    fn an_attempt_decides_nothing_twice(
        before in prop::collection::vec(prop::sample::select(vec![Reception::Pending, Reception::Accepted, Reception::Rejected]), 1..6),
        answers in prop::collection::vec(prop::option::of(prop::sample::select(VERDICTS.to_vec())), 0..6),
        kind in 0..10, minutes in 0u32..5000,
    ) {
        let ending = match kind {
            0..=4 => Ending::Answered(answer(VERDICTS[kind as usize])),
            5 => Ending::Broken(String::new()),
            6 => Ending::Lost(String::new()),
            7 => Ending::Held(answer(Verdict::Policy)),
            8 => Ending::Held(answer(Verdict::Limit)),
            _ => Ending::NoLogin(String::new()),
        };
        let recipients: Vec<_> = before.iter().copied().map(recipient).collect();
        let answers: Vec<_> = answers.into_iter().map(|verdict| verdict.map(answer)).collect();
        let moved = Delivery { recipients, tried_for: MINUTE * minutes }.after(&answers, ending);
        prop_assert!(Status::Sending.after(moved.step).is_some());
        for (before, after) in before.iter().zip(&moved.recipients) {
            prop_assert!(*before == Reception::Pending || *before == after.status);
        }
        let has = |status| moved.recipients.iter().any(|recipient| recipient.status == status);
        match moved.step {
            Step::Accepted => prop_assert!(has(Reception::Accepted) && !has(Reception::Pending)),
            Step::Refused => prop_assert!(!has(Reception::Accepted) && !has(Reception::Pending)),
            Step::Lost => prop_assert!(!moved.doubtful.is_empty() && moved.pause.is_none()),
            Step::Delayed => prop_assert!(has(Reception::Pending) && moved.pause.is_some()),
            step => prop_assert!(step == Step::GivenUp && has(Reception::Pending)),
        }
        prop_assert_eq!(moved.step == Step::Lost, !moved.doubtful.is_empty());
    }
}
