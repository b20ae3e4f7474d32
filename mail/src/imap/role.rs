//! What folders are for.

use super::Folder;

/// What a folder is for. There is at most one of each in an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Where mail arrives.
    Inbox,
    /// What was sent.
    Sent,
    /// What is not sent yet.
    Drafts,
    /// What was deleted.
    Trash,
    /// What nobody wants.
    Junk,
    /// What was put aside.
    Archive,
    /// All messages of the account, whatever other folders they are in (Gmail).
    All,
}

impl Role {
    /// Of an attribute of RFC 6154.
    pub(super) fn of_attribute(attribute: &[u8]) -> Option<Self> {
        Some(match attribute.to_ascii_lowercase().as_slice() {
            b"\\sent" => Self::Sent,
            b"\\drafts" => Self::Drafts,
            b"\\trash" => Self::Trash,
            b"\\junk" | b"\\spam" => Self::Junk,
            b"\\archive" => Self::Archive,
            b"\\all" | b"\\allmail" => Self::All,
            _ => return None,
        })
    }
}

/// What Gmail calls a folder with this attribute among a message's labels.
pub(super) fn label(attribute: &[u8]) -> Option<&'static str> {
    Some(match attribute.to_ascii_lowercase().as_slice() {
        b"\\sent" => "\\Sent",
        b"\\drafts" => "\\Draft",
        b"\\flagged" => "\\Starred",
        b"\\important" => "\\Important",
        _ => return None,
    })
}

/// Names in small letters, the likeliest of a role first: those of servers, and of mail programs in many languages.
const NAMES: [(Role, &[&str]); 6] = [
    (
        Role::Sent,
        &[
            "sent",
            "sent items",
            "sent messages",
            "sent mail",
            "sent-mail",
            "gesendet",
            "gesendete objekte",
            "gesendete elemente",
            "gesendete nachrichten",
            "envoyés",
            "éléments envoyés",
            "messages envoyés",
            "objets envoyés",
            "courrier envoyé",
            "enviados",
            "elementos enviados",
            "mensajes enviados",
            "correo enviado",
            "itens enviados",
            "posta inviata",
            "inviata",
            "inviati",
            "posta in uscita inviata",
            "verzonden",
            "verzonden items",
            "verzonden berichten",
            "skickat",
            "skickade",
            "sendt",
            "sendt post",
            "sendte elementer",
            "lähetetyt",
            "elementy wysłane",
            "wysłane",
            "odeslané",
            "odeslaná pošta",
            "odoslané",
            "elküldött",
            "elküldött elemek",
            "trimise",
            "gönderilmiş öğeler",
            "gönderilmiş",
            "gönderilenler",
            "отправленные",
            "отправленные элементы",
            "надіслані",
            "απεσταλμένα",
            "送信済み",
            "送信済みアイテム",
            "送信済みメール",
            "已发送",
            "已发送邮件",
            "已傳送",
            "寄件備份",
            "보낸 편지함",
            "보낸편지함",
        ],
    ),
    (
        Role::Drafts,
        &[
            "drafts",
            "draft",
            "entwürfe",
            "brouillons",
            "brouillon",
            "borradores",
            "rascunhos",
            "bozze",
            "concepten",
            "utkast",
            "kladder",
            "luonnokset",
            "szkice",
            "wersje robocze",
            "koncepty",
            "rozepsané",
            "rozpísané",
            "piszkozatok",
            "schițe",
            "ciorne",
            "taslaklar",
            "черновики",
            "чернетки",
            "πρόχειρα",
            "下書き",
            "草稿",
            "草稿箱",
            "草稿夹",
            "임시 보관함",
            "임시보관함",
        ],
    ),
    (
        Role::Trash,
        &[
            "trash",
            "deleted items",
            "deleted messages",
            "deleted",
            "bin",
            "wastebasket",
            "papierkorb",
            "gelöscht",
            "gelöschte objekte",
            "gelöschte elemente",
            "corbeille",
            "éléments supprimés",
            "messages supprimés",
            "papelera",
            "elementos eliminados",
            "lixeira",
            "lixo",
            "itens excluídos",
            "itens eliminados",
            "cestino",
            "posta eliminata",
            "prullenbak",
            "verwijderde items",
            "papperskorgen",
            "borttaget",
            "papirkurv",
            "papirkurven",
            "slettet post",
            "slettede elementer",
            "roskakori",
            "kosz",
            "elementy usunięte",
            "koš",
            "odstraněná pošta",
            "kôš",
            "lomtár",
            "kuka",
            "törölt elemek",
            "gunoi",
            "coș de gunoi",
            "elemente șterse",
            "çöp kutusu",
            "çöp",
            "silinmiş öğeler",
            "корзина",
            "удаленные",
            "удалённые",
            "удаленные элементы",
            "кошик",
            "κάδος απορριμμάτων",
            "ゴミ箱",
            "ごみ箱",
            "削除済みアイテム",
            "垃圾箱",
            "已删除",
            "已删除邮件",
            "垃圾桶",
            "휴지통",
            "지운편지함",
        ],
    ),
    (
        Role::Junk,
        &[
            "junk",
            "spam",
            "junk e-mail",
            "junk email",
            "junk mail",
            "bulk mail",
            "bulk",
            "quarantine",
            "spamverdacht",
            "unerwünscht",
            "junk-e-mail",
            "courrier indésirable",
            "indésirables",
            "pourriel",
            "correo no deseado",
            "no deseado",
            "lixo eletrônico",
            "lixo eletrónico",
            "posta indesiderata",
            "ongewenste e-mail",
            "ongewenst",
            "skräppost",
            "søppelpost",
            "uønsket e-post",
            "uønsket e-mail",
            "roskaposti",
            "wiadomości-śmieci",
            "nevyžádaná pošta",
            "nevyžiadaná pošta",
            "levélszemét",
            "istenmeyen e-posta",
            "önemsiz",
            "спам",
            "нежелательная почта",
            "небажана пошта",
            "ανεπιθύμητη αλληλογραφία",
            "迷惑メール",
            "垃圾邮件",
            "垃圾郵件",
            "스팸",
            "정크 메일",
            "스팸메일함",
        ],
    ),
    (
        Role::Archive,
        &[
            "archive",
            "archives",
            "archiv",
            "archivo",
            "archivados",
            "archivio",
            "archief",
            "arquivo",
            "arquivados",
            "arkiv",
            "arkisto",
            "archiwum",
            "archív",
            "archívum",
            "arhivă",
            "arşiv",
            "архив",
            "архів",
            "αρχείο",
            "アーカイブ",
            "归档",
            "存档",
            "封存",
            "보관함",
        ],
    ),
    (
        Role::All,
        &[
            "all mail",
            "alle nachrichten",
            "tous les messages",
            "todos",
            "todos os e-mails",
            "tutti i messaggi",
            "alle e-mails",
        ],
    ),
];

/// Finds the role of each folder: by what the server says, which is set already, then by well-known names at the top,
/// below the inbox or in Gmail's own folder, for the roles that nobody has.
pub(super) fn assign(folders: &mut [Folder]) {
    let mut taken = Vec::new();
    for folder in folders.iter_mut() {
        if folder.path == "INBOX" {
            folder.role = Some(Role::Inbox);
        }
        match folder.role {
            Some(role) if taken.contains(&role) => folder.role = None,
            Some(role) => taken.push(role),
            None => {}
        }
    }
    let named: Vec<_> = folders.iter().map(|folder| top_name(folder).map(str::to_lowercase)).collect();
    for (role, names) in NAMES.iter().filter(|(role, _)| !taken.contains(role)) {
        let found = names.iter().find_map(|name| {
            let is_it = |(folder, named): (&Folder, &Option<String>)| {
                // Everything in one is a thing of Gmail's; elsewhere it may be a folder of somebody's own.
                named.as_deref() == Some(*name) && (*role != Role::All || is_gmail(&folder.path))
            };
            folders.iter().zip(&named).position(is_it)
        });
        if let Some(folder) = found.and_then(|at| folders.get_mut(at)) {
            folder.role = Some(*role);
        }
    }
}

/// The name of a folder that may have a role by it.
fn top_name(folder: &Folder) -> Option<&str> {
    if !folder.is_selectable || folder.role.is_some() {
        return None;
    }
    let Some(delimiter) = folder.delimiter else { return Some(&folder.path) };
    let below = folder.path.split_once(delimiter).filter(|(top, _)| *top == "INBOX" || is_gmail(top));
    let name = below.map_or(folder.path.as_str(), |(_, name)| name);
    (!name.contains(delimiter)).then_some(name)
}

fn is_gmail(path: &str) -> bool {
    path.starts_with("[Gmail]") || path.starts_with("[Google Mail]")
}
