//! Mailbox addresses and domain names: which there are, and when two of them are one.
//!
//! Characters are counted and not bytes, but for the limits that protocols set in octets. Unicode is kept as sent; what
//! counts is the key of an address and the A-label of a domain.

use std::borrow::Cow;

use icu_casemap::CaseMapper;
use icu_normalizer::{ComposingNormalizer, DecomposingNormalizer};
use idna::AsciiDenyList;
use idna::uts46::{DnsLength, Hyphens, Uts46};

/// The most octets of the part before the `@` (RFC 5321, 4.5.3.1.1).
const MAX_LOCAL_PART: usize = 64;

/// The domain in ASCII, in lower case; `None` where IDNA allows no such domain.
///
/// UTS 46 with the rules of STD 3: labels of letters, digits and inner hyphens, of at most 63 octets, and 253 in all. A
/// dot at the end is allowed. Hyphens in the third and fourth place are, too, for such names exist. The last label is not
/// all digits: four numbers that are no IP address are no name either (RFC 3696, 2).
pub fn ascii_domain(domain: &str) -> Option<Cow<'_, str>> {
    let rules = (AsciiDenyList::STD3, Hyphens::CheckFirstLast, DnsLength::VerifyAllowRootDot);
    let ascii = Uts46::new().to_ascii(domain.as_bytes(), rules.0, rules.1, rules.2).ok()?;
    let last = ascii.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    (!last.bytes().all(|byte| byte.is_ascii_digit())).then_some(ascii)
}

/// Whether this is a mailbox address: a local part, an `@`, and a domain with a dot inside. No display name, no comment,
/// no IP address.
pub fn is_address(text: &str) -> bool {
    text.rsplit_once('@').is_some_and(|(local, domain)| {
        is_local_part(local)
            && ascii_domain(domain).is_some_and(|domain| domain.contains('.') && !domain.ends_with('.'))
    })
}

/// A dot-string or a quoted string (RFC 5321, 4.1.2), of letters of any script (RFC 6531, 3.3).
fn is_local_part(text: &str) -> bool {
    let quoted = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    text.len() <= MAX_LOCAL_PART
        && match quoted {
            // The grammar allows an empty one, which no mailbox has.
            Some(content) => !content.is_empty() && is_quoted_content(content),
            None => text.split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_atom)),
        }
}

/// RFC 6531 takes all beyond ASCII; a name with white space or a control character in it is a slip or an attack.
fn is_beyond_ascii(c: char) -> bool {
    !c.is_ascii() && !c.is_whitespace() && !c.is_control()
}

fn is_atom(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || is_beyond_ascii(c)
}

fn is_quoted_content(text: &str) -> bool {
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let fits = match c {
            '\\' => chars.next().is_some_and(|escaped| matches!(escaped, ' '..='~')),
            '"' => false,
            c => matches!(c, ' '..='~') || is_beyond_ascii(c),
        };
        if !fits {
            return false;
        }
    }
    true
}

/// What two spellings of one address share: the local part after NFC and case folding, the domain's A-label.
///
/// Every text has a key, for rows may be older than the rules: what is no domain is folded, too.
pub fn address_key(address: &str) -> String {
    let (local, domain) = address.rsplit_once('@').unwrap_or((address, ""));
    let mut key = folded(local);
    key.push('@');
    match ascii_domain(domain) {
        Some(domain) => key.push_str(&domain),
        None => key.push_str(&folded(domain)),
    }
    key
}

/// Full case folding, composed. Decomposed before it, for it would else part marks from their letters (The Unicode
/// Standard, D145).
fn folded(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    let decomposed = DecomposingNormalizer::new_nfd().normalize(text);
    let folded = CaseMapper::new().fold_string(&decomposed);
    ComposingNormalizer::new_nfc().normalize(&folded).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A letter with what may stand on it, of many scripts.
    fn syllable() -> impl Strategy<Value = String> {
        prop::sample::select(vec![
            "a",
            "Z",
            "7",
            "é",
            "e\u{301}",
            "ß",
            "ſ",
            "Σ",
            "ς",
            "İ",
            "ı",
            "Ж",
            "й",
            "и\u{306}",
            "Ա",
            "א",
            "ب",
            "سّ",
            "सं",
            "क्षि",
            "डा",
            "த்",
            "ழ்",
            "ที่",
            "น้ำ",
            "ខ្មែ",
            "မြ",
            "ប្រ",
            "漢",
            "か\u{3099}",
            "が",
            "한",
            "\u{1112}\u{1161}\u{11ab}",
            "ქ",
            "Ꭰ",
            "ꭰ",
            "ა",
            "😀",
            "👩\u{200d}💻",
            "❤\u{fe0f}",
            "ᾳ",
            "ǆ",
            "ﬁ",
        ])
        .prop_map(str::to_owned)
    }

    /// Letters that a label may be of, and may begin with, by script: a label of two is what browsers warn of.
    const SCRIPTS: [&[&str]; 19] = [
        &["a", "Z", "é", "e\u{301}", "ß", "ø", "ı", "ﬁ", "Ǆ"],
        &["Ж", "й", "и\u{306}", "Ї", "ё"],
        &["α", "Σ", "ς", "ᾳ", "ή"],
        &["Ա", "և", "ք"],
        &["ა", "ქ", "Ა"],
        &["Ꭰ", "ꭰ"],
        &["א", "ש", "ת"],
        &["ب", "سّ", "م", "ی"],
        &["क्षि", "सं", "डा", "म"],
        &["বা", "বং", "ল"],
        &["த்", "ழ்", "மி"],
        &["ที่", "น้ำ", "ก"],
        &["ខ្មែ", "ប្រ"],
        &["မြ", "န်"],
        &["አ", "ማ"],
        &["漢", "字", "例"],
        &["が", "か\u{3099}", "ナ", "ｶ"],
        &["한", "\u{1112}\u{1161}\u{11ab}", "국"],
        &["ｅ", "Ｘ", "ａ"],
    ];

    fn label() -> impl Strategy<Value = String> {
        let script = prop::sample::select(SCRIPTS.as_slice());
        script
            .prop_flat_map(|letters| prop::collection::vec(prop::sample::select(letters), 1..5))
            .prop_map(|some| some.concat())
    }

    /// With each of the dots that IDNA knows.
    fn domain() -> impl Strategy<Value = String> {
        let dot = prop::sample::select([".", "\u{3002}", "\u{ff0e}", "\u{ff61}"].as_slice());
        prop::collection::vec((label(), dot), 1..4).prop_flat_map(|labels| {
            let labels: String = labels.into_iter().flat_map(|(label, dot)| [label, dot.to_owned()]).collect();
            (Just(labels), label()).prop_map(|(labels, last)| labels + &last)
        })
    }

    fn local_part() -> impl Strategy<Value = String> {
        prop::collection::vec(syllable(), 1..4).prop_map(|syllables| syllables.concat())
    }

    #[test]
    fn addresses_of_any_script() {
        for good in [
            "a@b.co",
            "Jane.Doe+tag@Example.COM",
            "o'neil@sub.example.org",
            "!#$%&'*+-/=?^_`{|}~@example.com",
            "jürgen@bücher.example",
            "संपर्क@डाटा.example",
            "தொடர்பு@எடுத்துக்காட்டு.example",
            "ติดต่อ@ตัวอย่าง.example",
            "联系@例子.例子",
            "اتصل@مثال.example",
            "😀@example.com",
            "👩\u{200d}💻@example.com",
            "jane@xn--bcher-kva.example",
            "jane@b\u{fc}cher。example",
            "jane@r3---sn.example.com",
            "\"jane doe\"@example.com",
            "\"a@b\\\"c\\\\\"@example.com",
            "\"संपर्क सं\"@example.com",
            &format!("{}@example.com", "a".repeat(64)),
            &format!("{}@example.com", "é".repeat(32)),
        ] {
            assert!(is_address(good), "{good}");
        }
    }

    #[test]
    fn what_is_no_address() {
        for bad in [
            "",
            "jane",
            "jane@",
            "@example.com",
            "jane@example",
            "jane@example.",
            "jane@example.com.",
            "jane@exam!ple.com",
            "jane@exam#ple.com",
            "jane@my_office.example.com",
            "jane@exam ple.com",
            "jane@-example.com",
            "jane@example-.com",
            "jane@b..co",
            "jane@.b.co",
            "jane@xn--a.example",
            "jane@\u{300}a.example",
            "jane@example.com\u{ff20}x.com",
            "jane@\u{a0}example.com",
            "jane@ex\u{2028}ample.com",
            "jane@127.0.0.1",
            "jane@[127.0.0.1]",
            "jane@１２７.0.0.1",
            "a b@example.com",
            "a\u{a0}b@example.com",
            "a\u{3000}b@example.com",
            " a@b.co",
            "a@b.co ",
            "a@@b.co",
            "a@c@b.co",
            ".a@b.co",
            "a.@b.co",
            "a..b@b.co",
            "a\u{85}@b.co",
            "Jane <jane@example.com>",
            "jane@example.com (Jane)",
            "\"\"@example.com",
            "\"@example.com",
            "\"a\"b\"@example.com",
            "\"a\\\"@example.com",
            "\"a\"b@example.com",
            "\"a\\é\"@example.com",
            "\"a\tb\"@example.com",
            &format!("{}@example.com", "a".repeat(65)),
            &format!("{}@example.com", "é".repeat(33)),
            &format!("a@{}.com", "b".repeat(64)),
            &format!("a@{}.com", "ü".repeat(60)),
        ] {
            assert!(!is_address(bad), "{bad:?}");
        }
    }

    #[test]
    fn two_spellings_of_one_address_have_one_key() {
        for (one, other) in [
            ("Jane@Example.COM", "jane@example.com"),
            ("JÜRGEN@BÜCHER.example", "jürgen@bücher.example"),
            ("jürgen@bücher.example", "ju\u{308}rgen@xn--bcher-kva.EXAMPLE"),
            ("STRASSE@example.com", "straße@example.com"),
            ("ΣΊΣΥΦΟΣ@example.com", "σίσυφος@example.com"),
            ("Ꭰ@example.com", "ꭰ@example.com"),
            ("ᾼ@example.com", "α\u{345}@example.com"),
            ("α\u{345}\u{301}@example.com", "α\u{301}\u{345}@example.com"),
            ("jane@b\u{fc}cher。example", "jane@bücher.example"),
            ("jane@ＥＸＡＭＰＬＥ.com", "jane@example.com"),
        ] {
            assert_eq!(address_key(one), address_key(other), "{one} {other}");
        }
    }

    #[test]
    fn other_addresses_have_other_keys() {
        for (one, other) in [
            ("jane@example.com", "jane@example.org"),
            ("jurgen@example.com", "jürgen@example.com"),
            ("ı@example.com", "i@example.com"),
            // Folding is canonical, not by compatibility.
            ("ﬁ@example.com", "ﬂ@example.com"),
            ("ｊ@example.com", "j@example.com"),
            ("jane@straße.example", "jane@strasse.example"),
            ("\"jane\"@example.com", "jane@example.com"),
            ("jane+x@example.com", "jane@example.com"),
        ] {
            assert_ne!(address_key(one), address_key(other), "{one} {other}");
        }
        assert_eq!(address_key("JÜRGEN@BÜCHER.example"), "jürgen@xn--bcher-kva.example");
        // Older than the rules.
        assert_eq!(address_key("Jane@My_Office.example"), "jane@my_office.example");
    }

    proptest! {
        #[test]
        fn local_parts_of_any_script_are_accepted(local in local_part()) {
            prop_assume!(local.len() <= MAX_LOCAL_PART);
            let address = format!("{local}@example.com");
            prop_assert!(is_address(&address), "{}", address);
        }

        #[test]
        fn case_and_composition_of_any_script_do_not_matter(local in local_part()) {
            let key = address_key(&format!("{local}@example.com"));
            for other in [
                DecomposingNormalizer::new_nfd().normalize(&local).into_owned(),
                ComposingNormalizer::new_nfc().normalize(&local).into_owned(),
                CaseMapper::new().fold_string(&local).into_owned(),
                folded(&local),
            ] {
                prop_assert_eq!(&address_key(&format!("{other}@example.com")), &key, "{} {}", local, other);
            }
        }

        #[test]
        fn a_key_is_its_own_key(address in "\\PC{0,20}@\\PC{0,20}|.*") {
            let key = address_key(&address);
            prop_assert_eq!(address_key(&key), key);
        }

        #[test]
        fn what_is_accepted_has_a_key_that_the_database_takes(local in local_part(), domain in domain()) {
            prop_assume!(local.len() <= MAX_LOCAL_PART);
            let address = format!("{local}@{domain}");
            prop_assert!(is_address(&address), "{}", address);
            let key = address_key(&address);
            let (local, domain) = key.rsplit_once('@').unwrap();
            prop_assert!(!local.is_empty() && domain.contains('.') && domain.is_ascii());
            prop_assert!(key.chars().count() <= 512);
        }

        #[test]
        fn domains_of_any_script_have_one_a_label_however_they_are_written(domain in domain()) {
            let ascii = ascii_domain(&domain);
            prop_assert!(ascii.is_some(), "{}", domain);
            let ascii = ascii.unwrap();
            prop_assert!(ascii.len() <= 253 && ascii.split('.').all(|label| (1..=63).contains(&label.len())), "{}", ascii);
            prop_assert!(ascii.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.')), "{}", ascii);
            let (unicode, _) = Uts46::new().to_unicode(ascii.as_bytes(), AsciiDenyList::STD3, Hyphens::CheckFirstLast);
            for other in [
                ascii.to_string(),
                ascii.to_ascii_uppercase(),
                unicode.into_owned(),
                DecomposingNormalizer::new_nfd().normalize(&domain).into_owned(),
                ComposingNormalizer::new_nfc().normalize(&domain).into_owned(),
                domain.chars().flat_map(char::to_lowercase).collect(),
            ] {
                prop_assert_eq!(ascii_domain(&other), Some(ascii.clone()), "{}", other);
            }
        }

        #[test]
        fn a_domain_has_nothing_in_it_that_no_name_may_have(
            domain in domain(),
            at in any::<prop::sample::Index>(),
            bad in prop::sample::select(" !\"#$%&'()*+,/:;<=>?@[\\]^_`{|}~\t\0\u{a0}\u{2028}\u{ff3f}\u{ff20}\u{fffd}\u{e000}".chars().collect::<Vec<_>>()),
        ) {
            let places: Vec<usize> = domain.char_indices().map(|(place, _)| place).chain([domain.len()]).collect();
            let mut domain = domain;
            domain.insert(*at.get(&places), bad);
            prop_assert!(!is_address(&format!("jane@{domain}")), "{}", domain);
        }

        #[test]
        fn no_label_begins_with_what_stands_on_a_letter(before in label(), after in label(), mark in prop::sample::select(vec!['\u{301}', '\u{94d}', '\u{bcd}', '\u{e48}', '\u{64b}', '\u{5b0}', '\u{3099}'])) {
            let domain = format!("{before}.{mark}{after}");
            prop_assert!(ascii_domain(&domain).is_none(), "{}", domain);
        }

        #[test]
        fn ascii_addresses_have_the_key_that_sql_gives_too(address in "[!-~]{1,20}@[a-zA-Z0-9]([a-zA-Z0-9-]{0,9}[a-zA-Z0-9])?\\.[a-zA-Z]{2,5}") {
            if is_address(&address) {
                prop_assert_eq!(address_key(&address), address.to_ascii_lowercase());
            }
        }

        #[test]
        fn domains_built_by_the_rule_are_their_own_a_label(labels in prop::collection::vec("[a-z]([a-z0-9]{0,20}[a-z0-9])?", 1..5)) {
            let domain = labels.join(".");
            prop_assert_eq!(ascii_domain(&domain), Some(Cow::Borrowed(domain.as_str())));
        }
    }
}
