//! Histories of a POP3 mailbox, as those of `sync_model.rs`: messages come, go and are numbered anew, while workers die, the
//! database and the server are cut off. In the end what is here is what is there, and what stayed there has its id.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use serde_json::json;
use shared::account::AccountId;
use shared::identity::{Scope, TenantId, UserId};
use shared::work::Done;
use uuid::Uuid;

use crate::model_pop3::{Mailbox, ModelPop3};
use crate::proxy::Proxy;
use crate::support::{User, api, owner, servers};
use crate::sync_model::{Dice, Worker, here, pass_time, turn};

/// In `cargo verify`; `POP3_HISTORIES` asks for another number, `POP3_SEED` for one of them.
const HISTORIES: u64 = 60;
const TIME: Duration = Duration::from_secs(20);

/// One thing happens at the server. `gone` are those that are not there any more, of which one may come back.
fn happen(mailbox: &mut Mailbox, dice: &mut Dice, next: &mut u32, gone: &mut BTreeSet<u32>) -> String {
    let nth = dice.roll(mailbox.messages.len().max(1));
    match dice.roll(10) {
        0..=3 => {
            let count = 1 + dice.roll(30) as u32;
            mailbox.messages.extend(*next..*next + count);
            *next += count;
            format!("{count} arrive")
        }
        4..=5 => {
            let count = (1 + dice.roll(4)).min(mailbox.messages.len() - nth.min(mailbox.messages.len()));
            gone.extend(mailbox.messages.drain(nth..nth + count));
            format!("{count} are gone from {nth}")
        }
        6 => {
            gone.extend(mailbox.messages.drain(..));
            "all are gone".to_owned()
        }
        7 => match gone.pop_first() {
            Some(message) => {
                mailbox.messages.insert(nth, message);
                format!("{message} is back")
            }
            None => "nothing comes back".to_owned(),
        },
        _ => {
            mailbox.messages.rotate_left(nth);
            format!("{nth} others are the first")
        }
    }
}

async fn live(seed: u64) {
    let mut dice = Dice::new(seed);
    let (mut next, mut gone, mut history) = (1, BTreeSet::new(), format!("POP3_SEED={seed}: "));
    let server = ModelPop3::start(Mailbox::default()).await;
    let user = User::new();
    let settings = json!({"hostname": "127.0.0.1", "port": server.port, "encryption": "none", "protocol": "pop3"});
    let created = api().await.create(&user, settings).await;
    let account = AccountId(created["id"].as_str().unwrap().parse().unwrap());
    let postgres = Proxy::to_port(servers().await.postgres.port()).await;
    let (worker, owner) = (Worker::through(&postgres).await, owner().await);
    let scope = Scope { tenant_id: TenantId(user.tenant), user_id: UserId(user.user) };
    let ring = || async {
        let sql = "update email_accounts set rung_at = 1, leased_until = least(leased_until, 1), deaths = 0
                   where id = $1";
        owner.execute(sql, &[&account.0]).await.unwrap();
    };
    let mut ids = BTreeMap::new();
    let mut once_gone = BTreeSet::new();
    for _ in 0..5 + dice.roll(4) {
        for _ in 0..dice.roll(5) {
            history += &happen(&mut server.mailbox.lock().unwrap(), &mut dice, &mut next, &mut gone);
            history += "; ";
        }
        once_gone.extend(gone.iter().copied());
        if dice.roll(6) == 0 {
            let bytes = dice.roll(3000);
            history += &format!("the server hangs up after {bytes}; ");
            server.mailbox.lock().unwrap().drop_after = Some(bytes);
        }
        turn(&mut dice, &mut history, || worker.run(&scope, account, TIME), &ring, &[("database", &postgres)]).await;
        server.mailbox.lock().unwrap().drop_after = None;
        for (_, (_, key, id)) in here(&owner, account).await {
            ids.entry(key).or_insert(id);
        }
        // A flag is nobody's business there, and stays.
        let sql = "update email_messages set is_flagged = true where account_id = $1";
        owner.execute(sql, &[&account.0]).await.unwrap();
    }
    for _ in 0..3 {
        loop {
            ring().await;
            if worker.run(&scope, account, TIME).await.expect(&history) == Done::Complete {
                break;
            }
        }
        pass_time(&owner, account).await;
    }
    let found: BTreeMap<u64, Uuid> = here(&owner, account).await.into_values().map(|(_, key, id)| (key, id)).collect();
    let there: BTreeSet<u64> = server.mailbox.lock().unwrap().messages.iter().map(|key| u64::from(*key)).collect();
    assert_eq!(found.keys().copied().collect::<BTreeSet<_>>(), there, "{history}");
    let sql = "select count(m.id), f.total, f.unread, count(m.id) filter (where not m.is_read), count(m.id) filter (where m.uid is null)
               from email_folders f left join email_messages m on m.folder_id = f.id
               where f.account_id = $1 group by f.id";
    let row = owner.query_one(sql, &[&account.0]).await.unwrap();
    let (count, total, unread): (i64, i32, i32) = (row.get(0), row.get(1), row.get(2));
    assert_eq!((count, total as i64), (there.len() as i64, there.len() as i64), "{history}");
    assert_eq!((i64::from(unread), 0), (row.get::<_, i64>(3), row.get::<_, i64>(4)), "{history}");
    let sql = "select id from email_messages where account_id = $1 and is_flagged";
    let flagged: BTreeSet<Uuid> = owner.query(sql, &[&account.0]).await.unwrap().iter().map(|row| row.get(0)).collect();
    for (key, id) in found {
        let stayed = !once_gone.contains(&u32::try_from(key).unwrap());
        if let Some(first) = ids.get(&key).filter(|_| stayed) {
            assert_eq!(*first, id, "{history} {key}");
            assert!(flagged.contains(&id), "{history} {key}");
        }
    }
}

#[tokio::test]
async fn whatever_happens_to_a_pop3_mailbox_it_ends_as_the_server_is() {
    let number = |name: &str| std::env::var(name).ok().and_then(|number| number.parse::<u64>().ok());
    if let Some(seed) = number("POP3_SEED") {
        return live(seed).await;
    }
    let count = number("POP3_HISTORIES").unwrap_or(HISTORIES);
    stream::iter(0..count).map(live).buffer_unordered(4).collect::<Vec<_>>().await;
}
