//! The histories of `sync_model.rs` at a real server: what happens to the model is done at a Dovecot as well, by another client
//! and its administrator, while workers synchronise, meet, die and are cut off. In the end the database is what that server is,
//! and the model.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use shared::work::Done;

use crate::mailboxes::{OtherClient, Rig};
use crate::model_imap::{Extensions, FLAGS, World};
use crate::proxy::Proxy;
use crate::support::{mail, servers};
use crate::sync_model::{Dice, happen, here, pass_time, turn};

/// In `cargo verify`; `DOVECOT_HISTORIES` asks for another number, `DOVECOT_SEED` for one of them.
const HISTORIES: u64 = 8;
const TIME: Duration = Duration::from_secs(60);

/// As it is called there: the model's names have a meaning to Dovecot, which makes such folders by itself. The other client
/// knows ASCII alone.
fn real(name: &str) -> String {
    if name == "INBOX" { name.to_owned() } else { format!("My-{}", name.replace('ü', "ue")) }
}

/// Where each message is, and its flags.
fn places(world: &World) -> BTreeMap<u64, (String, u8)> {
    let messages = world.folders.iter().flat_map(|(name, folder)| {
        folder.messages.values().map(move |message| (message.key, (real(name), message.flags)))
    });
    messages.collect()
}

fn flag_list(flags: u8) -> String {
    let names: Vec<_> = (0..4).filter(|bit| flags & 1 << bit != 0).map(|bit| FLAGS[bit]).collect();
    format!("({})", names.join(" "))
}

/// Does at the server what has happened to the model.
async fn follow(client: &mut OtherClient, mailbox: &str, mut before: World, after: &World) {
    for name in before.folders.keys().cloned().collect::<Vec<_>>() {
        let validity = before.folders[&name].validity;
        match after.folders.get(&name) {
            Some(folder) if folder.validity != validity => {
                mail().await.set_uid_validity(mailbox, &real(&name), folder.validity + 2_000_000_000).unwrap();
            }
            Some(_) => {}
            None => match after.folders.iter().find(|(_, folder)| folder.validity == validity) {
                Some((new, _)) => {
                    client.say(&format!("RENAME {} {}", real(&name), real(new))).await;
                    let folder = before.folders.remove(&name).unwrap();
                    before.folders.insert(new.clone(), folder);
                }
                None => {
                    client.say(&format!("DELETE {}", real(&name))).await;
                    before.folders.remove(&name);
                }
            },
        }
    }
    for name in after.folders.keys().filter(|name| !before.folders.contains_key(*name)) {
        client.say(&format!("CREATE {}", real(name))).await;
    }
    let (old, new) = (places(&before), places(after));
    for (key, (folder, flags)) in &old {
        let done = match new.get(key) {
            None => vec!["UID STORE * +FLAGS.SILENT (\\Deleted)".to_owned(), "UID EXPUNGE *".to_owned()],
            Some((to, _)) if to != folder => vec![format!("UID MOVE * {to}")],
            Some((_, now)) if now != flags => vec![format!("UID STORE * FLAGS.SILENT {}", flag_list(*now))],
            Some(_) => continue,
        };
        client.say(&format!("SELECT {folder}")).await;
        let found = client.say(&format!("UID SEARCH HEADER Message-ID <{key}@example.com>")).await;
        let uid =
            found.iter().find_map(|line| line.strip_prefix("* SEARCH ")).unwrap_or_else(|| panic!("{key} in {folder}"));
        for command in done {
            client.say(&command.replacen('*', uid.trim(), 1)).await;
        }
        // Who has a folder open that is deleted is thrown out.
        client.say("UNSELECT").await;
    }
    for (key, (folder, flags)) in new.iter().filter(|(key, _)| !old.contains_key(key)) {
        let message =
            after.folders.values().flat_map(|folder| folder.messages.values()).find(|m| m.key == *key).unwrap();
        client.append_with(folder, &flag_list(*flags), message.header().as_bytes()).await;
    }
}

async fn live(seed: u64) {
    let mut dice = Dice::new(seed);
    let postgres = Proxy::to_port(servers().await.postgres.port()).await;
    let dovecot = Proxy::to_port(mail().await.ports().imaps).await;
    let (rig, mailbox) = Rig::dovecot_through(&dovecot, &postgres).await;
    let proxies = [("database", &postgres), ("server", &dovecot)];
    let mut client = OtherClient::sign_in(&mailbox).await;
    let mut world = World::new(Extensions::default());
    let (mut history, mut moved, mut ids) = (format!("DOVECOT_SEED={seed}: "), BTreeSet::new(), BTreeMap::new());
    for _ in 0..4 + dice.roll(4) {
        for _ in 0..dice.roll(8) {
            let before = world.clone();
            history += &happen(&mut world, &mut dice, &mut moved);
            history += "; ";
            follow(&mut client, &mailbox, before, &world).await;
        }
        turn(&mut dice, &mut history, || rig.try_for(TIME), || rig.ring(), &proxies).await;
        for (_, (_, key, id)) in here(&rig.owner, rig.account).await {
            ids.entry(key).or_insert(id);
        }
    }
    for _ in 0..3 {
        while rig.run_for(TIME).await == Done::More {}
        pass_time(&rig.owner, rig.account).await;
    }
    assert_eq!(rig.flags().await, client.all().await, "{history}");
    let found = here(&rig.owner, rig.account).await;
    let found_places = found.iter().map(|((folder, _), (flags, key, _))| (*key, (folder.clone(), *flags))).collect();
    assert_eq!(places(&world), found_places, "{history}");
    for (_, (_, key, id)) in found {
        assert!(moved.contains(&key) || ids.get(&key).is_none_or(|first| *first == id), "{history} {key}");
    }
    assert_eq!(rig.count("select count(*) from email_messages where account_id = $1 and uid is null").await, 0);
}

#[tokio::test]
async fn at_a_real_server_too_the_database_ends_as_the_server_is() {
    let number = |name: &str| std::env::var(name).ok().and_then(|number| number.parse::<u64>().ok());
    if let Some(seed) = number("DOVECOT_SEED") {
        return live(seed).await;
    }
    for seed in 0..number("DOVECOT_HISTORIES").unwrap_or(HISTORIES) {
        live(seed).await;
    }
}
