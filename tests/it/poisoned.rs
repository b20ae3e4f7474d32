//! Messages at which a server breaks each session, by hanging up, with nonsense or a refusal: they hold nothing up for long, are there in
//! the end as ones that cannot be read, and are not fetched again.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use serde_json::json;
use shared::work::Done;

use crate::mailboxes::Rig;
use crate::model_imap::{Extensions, ModelServer, Poison, World};
use crate::model_pop3::{Mailbox, ModelPop3};

const TIME: Duration = Duration::from_secs(20);
const ALL: Extensions = Extensions {
    condstore: true,
    qresync: true,
    list_status: true,
    esearch: true,
    object_id: false,
    special_use: true,
    uidplus: true,
    moves: true,
    utf8_accept: true,
    gmail: false,
};

/// The numbers in the Message-IDs of what is here, and how many cannot be read.
async fn here(rig: &Rig) -> (BTreeSet<u64>, i64) {
    let sql =
        "select split_part(message_id, '@', 1) from email_messages where account_id = $1 and message_id is not null";
    let rows = rig.owner.query(sql, &[&rig.account.0]).await.unwrap();
    let unreadable = "select count(*) from email_messages where account_id = $1 and not is_readable";
    (rows.iter().map(|row| row.get::<_, &str>(0).parse().unwrap()).collect(), rig.count(unreadable).await)
}

/// Synchronises until everything is here; how often that took.
async fn settle(rig: &Rig, context: &str) -> usize {
    for turn in 1..=20 {
        rig.run_for(TIME).await;
        let open = "select count(*) from email_folders f join email_accounts a on a.id = f.account_id
                    where a.id = $1 and (not f.is_complete or a.state <> 'connected' or a.rung_at is not null)";
        if rig.count(open).await == 0 {
            return turn;
        }
    }
    panic!("{context}: it does not end");
}

fn count_fetches(server: &ModelServer) -> usize {
    server.world().commands.iter().filter(|command| command.contains("HEADER.FIELDS")).count()
}

/// What is there is here, what is poisoned as something that cannot be read; and nothing is left to be done.
async fn check(rig: &Rig, server: &ModelServer, poisoned: &[u64], context: &str) {
    let there: BTreeSet<u64> = {
        let world = server.world();
        let keys = world.folders.values().flat_map(|folder| folder.messages.values()).map(|message| message.key);
        keys.filter(|key| !poisoned.contains(key)).collect()
    };
    assert_eq!(here(rig).await, (there, poisoned.len() as i64), "{context}");
    let before = count_fetches(server);
    rig.run().await;
    assert_eq!(count_fetches(server), before, "{context}");
}

#[tokio::test]
async fn a_message_that_breaks_sessions_is_there_as_one_that_cannot_be_read() {
    let middle = vec![350];
    let cases = [
        (ALL, Poison::HangUp, middle.clone(), 5),
        (Extensions::default(), Poison::HangUp, middle.clone(), 5),
        (ALL, Poison::Nonsense, middle.clone(), 5),
        (ALL, Poison::Bye, middle.clone(), 5),
        (ALL, Poison::No, middle.clone(), 5),
        (ALL, Poison::HangUpAtOnce, middle, 12),
        // The newest and the oldest of the inbox, and more than one.
        (ALL, Poison::HangUp, vec![700], 5),
        (ALL, Poison::HangUp, vec![1], 5),
        (ALL, Poison::HangUp, vec![100, 101, 650], 14),
        (Extensions::default(), Poison::No, vec![100, 101, 650], 14),
    ];
    let each = cases.into_iter().map(|(extensions, poison, poisoned, most)| async move {
        let context = format!("{poison:?} {poisoned:?}");
        let mut world = World::new(extensions);
        world.create("Work");
        (0..700).for_each(|_| world.append("INBOX", 0));
        (0..10).for_each(|_| world.append("Work", 1));
        world.poison = poisoned.iter().map(|key| (*key, poison)).collect();
        let server = ModelServer::start(world).await;
        let rig = Rig::model(&server).await;
        let turns = settle(&rig, &context).await;
        assert!(turns <= most, "{context}: {turns}");
        check(&rig, &server, &poisoned, &context).await;
    });
    stream::iter(each).buffer_unordered(4).collect::<Vec<_>>().await;
}

#[tokio::test]
async fn what_arrives_beside_it_is_there_at_once() {
    for extensions in [ALL, Extensions::default()] {
        for poison in [Poison::HangUp, Poison::HangUpAtOnce, Poison::No] {
            let mut world = World::new(extensions);
            (0..20).for_each(|_| world.append("INBOX", 0));
            let server = ModelServer::start(world).await;
            let rig = Rig::model(&server).await;
            rig.run().await;
            // 23 is bad, those beside it are good.
            (0..5).for_each(|_| server.world().append("INBOX", 0));
            server.world().poison.insert(23, poison);
            settle(&rig, "").await;
            check(&rig, &server, &[23], "one of five").await;
            // One that arrives alone.
            server.world().append("INBOX", 0);
            server.world().poison.insert(26, poison);
            settle(&rig, "").await;
            check(&rig, &server, &[23, 26], "alone").await;
            server.world().append("INBOX", 0);
            rig.run().await;
            check(&rig, &server, &[23, 26], "after them").await;
        }
    }
}

#[tokio::test]
async fn one_that_was_read_before_is_what_it_was_under_another_uid() {
    for poison in [Poison::HangUp, Poison::Nonsense, Poison::No] {
        let mut world = World::new(ALL);
        (0..20).for_each(|_| world.append("INBOX", 0));
        let server = ModelServer::start(world).await;
        let rig = Rig::model(&server).await;
        rig.run().await;
        let before = rig.ids().await;
        server.world().renumber("INBOX");
        server.world().poison.insert(10, poison);
        settle(&rig, "").await;
        assert_eq!((rig.ids().await, here(&rig).await), (before, ((1..=20).collect(), 0)), "{poison:?}");
    }
}

#[tokio::test]
async fn the_only_message_of_a_mailbox_may_be_it() {
    let mut world = World::new(ALL);
    world.append("INBOX", 0);
    world.poison.insert(1, Poison::HangUp);
    let server = ModelServer::start(world).await;
    let rig = Rig::model(&server).await;
    assert!(settle(&rig, "").await > 4, "nothing else shows that the server gives out messages");
    check(&rig, &server, &[1], "alone").await;
}

#[tokio::test]
async fn a_server_that_gives_out_nothing_for_a_while_spoils_nothing() {
    let mut world = World::new(ALL);
    (0..300).for_each(|_| world.append("INBOX", 0));
    let server = ModelServer::start(world).await;
    let rig = Rig::model(&server).await;
    rig.run().await;
    {
        let mut world = server.world();
        (0..300).for_each(|_| world.append("INBOX", 0));
        world.poison = (1..=600).map(|key| (key, Poison::HangUp)).collect();
    }
    for _ in 0..14 {
        rig.run_for(TIME).await;
    }
    assert_eq!(here(&rig).await, ((1..=300).collect(), 0));
    server.world().poison.clear();
    settle(&rig, "").await;
    check(&rig, &server, &[], "after it").await;
}

#[tokio::test]
async fn pop3_as_well() {
    poisoned_pop3(false).await;
}

#[tokio::test]
async fn pop3_without_top_as_well() {
    poisoned_pop3(true).await;
}

async fn poisoned_pop3(lacks_top: bool) {
    let poison = [1, 250, 500].into();
    let mailbox = Mailbox { messages: (1..=500).collect(), poison, lacks_top, ..Mailbox::default() };
    let server = ModelPop3::start(mailbox).await;
    let rig = pop3(&server).await;
    settle(&rig, "").await;
    let expected = |last: u64, bad: &[u64]| (1..=last).filter(|key| !bad.contains(key)).collect::<BTreeSet<_>>();
    assert_eq!(here(&rig).await, (expected(500, &[1, 250, 500]), 3));
    {
        let mut mailbox = server.mailbox.lock().unwrap();
        mailbox.messages.extend(501..=510);
        mailbox.poison.insert(505);
    }
    settle(&rig, "").await;
    assert_eq!(here(&rig).await, (expected(510, &[1, 250, 500, 505]), 4));
    server.mailbox.lock().unwrap().commands.clear();
    rig.run().await;
    let commands = std::mem::take(&mut server.mailbox.lock().unwrap().commands);
    assert!(commands.iter().all(|command| !command.starts_with("TOP") && !command.starts_with("RETR")), "{commands:?}");
}

/// What a POP3 server refuses may be a matter of a moment.
#[tokio::test]
async fn what_is_refused_once_is_asked_for_again_and_what_is_refused_each_time_is_not() {
    let all: BTreeSet<u64> = (1..=450).collect();
    for refused in [(1..=450).collect::<BTreeSet<u32>>(), [1, 200, 449, 450].into()] {
        let mailbox = Mailbox { messages: (1..=450).collect(), refused: refused.clone(), ..Mailbox::default() };
        let server = ModelPop3::start(mailbox).await;
        let rig = pop3(&server).await;
        // It refuses for a while.
        for _ in 0..if refused.len() == 450 { 4 } else { 2 } {
            rig.run().await;
        }
        let readable = 450 - refused.len();
        let (keys, unreadable) = here(&rig).await;
        assert_eq!((keys.len(), unreadable), (readable, 0), "{refused:?}");
        server.mailbox.lock().unwrap().refused.clear();
        settle(&rig, "").await;
        assert_eq!(here(&rig).await, (all.clone(), 0), "{refused:?}");
    }
    // And for ever.
    let refused = BTreeSet::from([1, 200, 449, 450]);
    let mailbox = Mailbox { messages: (1..=450).collect(), refused: refused.clone(), ..Mailbox::default() };
    let server = ModelPop3::start(mailbox).await;
    let rig = pop3(&server).await;
    let turns = settle(&rig, "").await;
    assert!(turns <= 5, "{turns}");
    let expected: BTreeSet<u64> = all.iter().filter(|key| !refused.contains(&(**key as u32))).copied().collect();
    assert_eq!(here(&rig).await, (expected, 4));
    server.mailbox.lock().unwrap().commands.clear();
    rig.run().await;
    let commands = std::mem::take(&mut server.mailbox.lock().unwrap().commands);
    assert!(commands.iter().all(|command| !command.starts_with("TOP")), "{commands:?}");
    // The only one that there is.
    let mailbox = Mailbox { messages: vec![1], refused: [1].into(), ..Mailbox::default() };
    let server = ModelPop3::start(mailbox).await;
    let rig = pop3(&server).await;
    settle(&rig, "").await;
    assert_eq!(here(&rig).await, (BTreeSet::new(), 1));
}

#[tokio::test]
async fn messages_that_come_whole_and_slowly_are_gone_on_with_and_not_suspected() {
    let pause = Duration::from_millis(50);
    let mailbox = Mailbox { messages: (1..=100).collect(), lacks_top: true, pause, ..Mailbox::default() };
    let server = ModelPop3::start(mailbox).await;
    let rig = pop3(&server).await;
    let turn = Duration::from_secs(2);
    assert_eq!(rig.run_for(turn).await, Done::More);
    let some = here(&rig).await.0.len();
    assert!((1..100).contains(&some), "{some}");
    for _ in 0..20 {
        let outcome = rig.run_for(turn).await;
        let suspected = "select count(*) from email_folders f join email_accounts a on a.id = f.account_id
                         where a.id = $1 and (f.suspects is not null or a.state <> 'connected')";
        assert_eq!(rig.count(suspected).await, 0);
        if outcome == Done::Complete {
            break;
        }
    }
    assert_eq!(here(&rig).await, ((1..=100).collect(), 0));
    let asked = std::mem::take(&mut server.mailbox.lock().unwrap().commands);
    assert_eq!(asked.iter().filter(|command| command.starts_with("RETR")).count(), 100);
}

async fn pop3(server: &ModelPop3) -> Rig {
    let settings = json!({"hostname": "127.0.0.1", "port": server.port, "encryption": "none", "protocol": "pop3"});
    Rig::at(settings).await
}
