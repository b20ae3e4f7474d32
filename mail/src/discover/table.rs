//! The providers that most mailboxes are at: known without asking anybody.
//!
//! Each row names the provider's own page that it was taken from. Rows were compared with Mozilla's database
//! (<https://github.com/thunderbird/autoconfig>, November 2026) where that has the provider.

use super::config::{ADDRESS, AppPassword, Config, LOCAL_PART, Offer};
use crate::connect::Security;
use crate::login::{Protocol, Server};

/// A row.
#[derive(Debug)]
pub(super) struct Provider {
    /// What people call it.
    name: &'static str,
    /// What comes after the `@`, in lower case, with spaces between.
    domains: &'static str,
    /// Hosts that accept mail for domains of its customers, or the ends of their names, with spaces between.
    exchanges: &'static str,
    /// Best first. None: the provider has no IMAP and no POP3, `note` says what instead.
    incoming: &'static [Host],
    smtp: &'static [Host],
    /// The name of its sign-in, where it has one for programs like this.
    oauth2: Option<&'static str>,
    app_password: Option<Password>,
    /// What a user has to know beside.
    pub note: Option<&'static str>,
    /// The page that the row is from.
    source: &'static str,
}

/// A server, and who one is there.
#[derive(Debug)]
struct Host {
    protocol: Protocol,
    name: &'static str,
    port: u16,
    security: Security,
    username: &'static str,
}

/// Whether a password for programs must be made, and where.
#[derive(Debug)]
struct Password {
    required: bool,
    url: &'static str,
}

impl Provider {
    /// The row as an answer.
    pub(super) fn config(&self) -> Config {
        Config {
            incoming: self.incoming.iter().map(Host::offer).collect(),
            smtp: self.smtp.iter().map(Host::offer).collect(),
            oauth2: self.oauth2(),
            app_password: self.app_password(),
        }
    }

    /// Its name, and where that was read.
    pub(super) fn describe(&self) -> String {
        format!("{} ({})", self.name, self.source)
    }

    /// The name of its sign-in.
    pub(super) fn oauth2(&self) -> Option<String> {
        self.oauth2.map(str::to_owned)
    }

    /// Where a password for programs is made.
    pub(super) fn app_password(&self) -> Option<AppPassword> {
        let password = self.app_password.as_ref()?;
        Some(AppPassword { required: password.required, url: password.url.to_owned() })
    }
}

/// The provider whose addresses end in `@domain`.
pub(super) fn by_domain(domain: &str) -> Option<&'static Provider> {
    TABLE.iter().find(|provider| provider.domains.split_whitespace().any(|one| one == domain))
}

/// The provider that accepts mail at this host, for domains of its customers.
pub(super) fn by_exchange(host: &str) -> Option<&'static Provider> {
    TABLE.iter().find(|provider| provider.exchanges.split_whitespace().any(|end| is_below(host, end)))
}

/// The provider that this mail server belongs to, whoever named it.
pub(super) fn by_server(host: &str) -> Option<&'static Provider> {
    TABLE.iter().find(|provider| provider.incoming.iter().chain(provider.smtp).any(|server| server.name == host))
}

/// Whether `host` is `domain` or a name below it.
pub(super) fn is_below(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

impl Host {
    const fn new(protocol: Protocol, name: &'static str, port: u16, security: Security) -> Self {
        Self { protocol, name, port, security, username: ADDRESS }
    }

    /// Who has no address there but a name.
    const fn by_local_part(self) -> Self {
        Self { username: LOCAL_PART, ..self }
    }

    fn offer(&self) -> Offer {
        let server =
            Server { protocol: self.protocol, host: self.name.to_owned(), port: self.port, security: self.security };
        Offer { server, username: self.username.to_owned() }
    }
}

const fn imap(name: &'static str) -> Host {
    Host::new(Protocol::Imap, name, 993, Security::Tls)
}

const fn pop3(name: &'static str) -> Host {
    Host::new(Protocol::Pop3, name, 995, Security::Tls)
}

/// Submission by TLS from the first byte.
const fn smtps(name: &'static str) -> Host {
    Host::new(Protocol::Smtp, name, 465, Security::Tls)
}

/// Submission by STARTTLS.
const fn submission(name: &'static str) -> Host {
    Host::new(Protocol::Smtp, name, 587, Security::StartTls)
}

/// The account's own password is refused.
const fn required(url: &'static str) -> Option<Password> {
    Some(Password { required: true, url })
}

/// The account's own password is refused once signing in takes a second step.
const fn with_second_factor(url: &'static str) -> Option<Password> {
    Some(Password { required: false, url })
}

/// What most rows have none of.
const PROVIDER: Provider = Provider {
    name: "",
    domains: "",
    exchanges: "",
    incoming: &[],
    smtp: &[],
    oauth2: None,
    app_password: None,
    note: None,
    source: "",
};

const ENABLE_IMAP: Option<&str> = Some("IMAP and POP3 must be switched on in the settings of the provider's web page");

static TABLE: [Provider; 48] = [
    Provider {
        name: "Gmail and Google Workspace",
        domains: "gmail.com googlemail.com",
        // aspmx.l.google.com, smtp.google.com, aspmx2.googlemail.com
        exchanges: "google.com googlemail.com",
        incoming: &[imap("imap.gmail.com"), pop3("pop.gmail.com")],
        smtp: &[smtps("smtp.gmail.com"), submission("smtp.gmail.com")],
        oauth2: Some("google"),
        app_password: required("https://myaccount.google.com/apppasswords"),
        source: "https://developers.google.com/workspace/gmail/imap/imap-smtp",
        ..PROVIDER
    },
    Provider {
        name: "Outlook.com",
        domains: "\
            outlook.com hotmail.com live.com msn.com windowslive.com passport.com livemail.tw outlook.at outlook.be \
            outlook.cl outlook.cz outlook.de outlook.dk outlook.es outlook.fr outlook.hu outlook.ie outlook.in \
            outlook.it outlook.jp outlook.kr outlook.lv outlook.my outlook.ph outlook.pt outlook.sa outlook.sg \
            outlook.sk outlook.co.id outlook.co.il outlook.co.th outlook.com.ar outlook.com.au outlook.com.br \
            outlook.com.gr outlook.com.tr outlook.com.vn hotmail.be hotmail.ca hotmail.cl hotmail.cz hotmail.de \
            hotmail.dk hotmail.es hotmail.fi hotmail.fr hotmail.gr hotmail.hu hotmail.it hotmail.lt hotmail.lv \
            hotmail.my hotmail.nl hotmail.no hotmail.ph hotmail.rs hotmail.se hotmail.sg hotmail.sk hotmail.co.id \
            hotmail.co.il hotmail.co.in hotmail.co.jp hotmail.co.kr hotmail.co.th hotmail.co.uk hotmail.co.za \
            hotmail.com.ar hotmail.com.au hotmail.com.br hotmail.com.hk hotmail.com.tr hotmail.com.tw hotmail.com.vn \
            live.at live.be live.ca live.cl live.cn live.de live.dk live.fi live.fr live.hk live.ie live.in live.it \
            live.jp live.nl live.no live.ru live.se live.co.jp live.co.kr live.co.uk live.co.za live.com.ar \
            live.com.au live.com.mx live.com.my live.com.ph live.com.pt live.com.sg",
        exchanges: "olc.protection.outlook.com",
        incoming: &[imap("outlook.office365.com"), pop3("outlook.office365.com")],
        smtp: &[submission("smtp-mail.outlook.com")],
        oauth2: Some("microsoft"),
        note: Some("Outlook.com accepts no password of any kind, only Microsoft's sign-in"),
        source: "https://support.microsoft.com/office/\
            pop-imap-and-smtp-settings-for-outlook-com-d088b986-291d-42b8-9564-9c414e2aa040",
        ..PROVIDER
    },
    Provider {
        name: "Microsoft 365",
        domains: "office365.com",
        exchanges: "mail.protection.outlook.com mx.microsoft",
        incoming: &[imap("outlook.office365.com"), pop3("outlook.office365.com")],
        smtp: &[submission("smtp.office365.com")],
        oauth2: Some("microsoft"),
        note: Some("Exchange Online accepts no password for IMAP and POP3, only Microsoft's sign-in"),
        source: "https://learn.microsoft.com/exchange/\
            clients-and-mobile-in-exchange-online/pop3-and-imap4/pop3-and-imap4",
        ..PROVIDER
    },
    Provider {
        name: "Yahoo Mail",
        domains: "\
            yahoo.com ymail.com myyahoo.com rocketmail.com cox.net yahoo.de yahoo.it yahoo.fr yahoo.es yahoo.se \
            yahoo.ca yahoo.in yahoo.co.in yahoo.co.uk yahoo.co.nz yahoo.co.id yahoo.com.au yahoo.com.ar yahoo.com.br \
            yahoo.com.mx yahoo.com.hk yahoo.com.sg yahoo.com.tw yahoo.com.ph yahoo.com.vn yahoo.gr yahoo.ie yahoo.no \
            yahoo.dk",
        exchanges: "am0.yahoodns.net",
        incoming: &[imap("imap.mail.yahoo.com"), pop3("pop.mail.yahoo.com")],
        smtp: &[smtps("smtp.mail.yahoo.com"), submission("smtp.mail.yahoo.com")],
        oauth2: Some("yahoo"),
        app_password: required("https://login.yahoo.com/account/security"),
        source: "https://help.yahoo.com/kb/new-mail-for-desktop/imap-server-settings-yahoo-mail-sln4075.html",
        ..PROVIDER
    },
    Provider {
        name: "AOL Mail",
        domains: "\
            aol.com aim.com netscape.net netscape.com compuserve.com cs.com wmconnect.com verizon.net aol.de aol.it \
            aol.fr aol.es aol.se aol.co.uk aol.co.nz aol.com.au aol.com.ar aol.com.br aol.com.mx",
        exchanges: "gm0.yahoodns.net",
        incoming: &[imap("imap.aol.com"), pop3("pop.aol.com")],
        smtp: &[smtps("smtp.aol.com"), submission("smtp.aol.com")],
        oauth2: Some("aol"),
        app_password: required("https://login.aol.com/account/security"),
        source: "https://help.aol.com/articles/how-do-i-use-other-email-applications-to-send-and-receive-my-aol-mail",
        ..PROVIDER
    },
    Provider {
        name: "iCloud Mail",
        domains: "icloud.com me.com mac.com",
        // At an own domain the user name is the iCloud address, which nobody but the user knows: no exchanges.
        incoming: &[imap("imap.mail.me.com").by_local_part()],
        smtp: &[submission("smtp.mail.me.com")],
        app_password: required("https://account.apple.com/account/manage"),
        source: "https://support.apple.com/102525",
        ..PROVIDER
    },
    Provider {
        name: "GMX",
        domains: "gmx.net gmx.de gmx.at gmx.ch gmx.eu gmx.biz gmx.org gmx.info mein.gmx mail.gmx email.gmx",
        exchanges: "gmx.net",
        incoming: &[imap("imap.gmx.net"), pop3("pop.gmx.net")],
        smtp: &[smtps("mail.gmx.net"), submission("mail.gmx.net")],
        app_password: with_second_factor("https://hilfe.gmx.net/sicherheit/2fa/anwendungsspezifisches-passwort.html"),
        note: ENABLE_IMAP,
        source: "https://hilfe.gmx.net/pop-imap/imap/imap-serverdaten.html",
        ..PROVIDER
    },
    Provider {
        name: "GMX International",
        domains: "\
            gmx.com gmx.us gmx.co.uk gmx.es gmx.fr gmx.it gmx.ca gmx.cn gmx.co.in gmx.com.br gmx.com.my gmx.com.tr \
            gmx.hk gmx.ie gmx.li gmx.ph gmx.pt gmx.ru gmx.se gmx.sg gmx.tm gmx.tw",
        incoming: &[imap("imap.gmx.com"), pop3("pop.gmx.com")],
        smtp: &[smtps("mail.gmx.com"), submission("mail.gmx.com")],
        app_password: with_second_factor("https://support.gmx.com/security/2fa/application-specific-passwords.html"),
        note: ENABLE_IMAP,
        source: "https://support.gmx.com/pop-imap/imap/server.html",
        ..PROVIDER
    },
    Provider {
        name: "WEB.DE",
        domains: "web.de",
        exchanges: "web.de",
        incoming: &[imap("imap.web.de").by_local_part(), pop3("pop3.web.de").by_local_part()],
        smtp: &[smtps("smtp.web.de").by_local_part(), submission("smtp.web.de").by_local_part()],
        app_password: with_second_factor("https://hilfe.web.de/sicherheit/2fa/anwendungsspezifisches-passwort.html"),
        note: ENABLE_IMAP,
        source: "https://hilfe.web.de/pop-imap/imap/imap-serverdaten.html",
        ..PROVIDER
    },
    Provider {
        name: "mail.com",
        domains: "mail.com email.com usa.com post.com europe.com consultant.com engineer.com",
        // Mail arrives at gmx.com, but cannot be read there: no exchanges.
        incoming: &[imap("imap.mail.com"), pop3("pop.mail.com")],
        smtp: &[smtps("smtp.mail.com"), submission("smtp.mail.com")],
        app_password: with_second_factor("https://support.mail.com/security/2fa/application-specific-passwords.html"),
        note: Some("IMAP and POP3 are part of the paid plan and must be switched on in its settings"),
        source: "https://support.mail.com/premium/imap/server.html",
        ..PROVIDER
    },
    Provider {
        name: "T-Online",
        domains: "t-online.de magenta.de",
        exchanges: "t-online.de",
        incoming: &[imap("secureimap.t-online.de"), pop3("securepop.t-online.de")],
        smtp: &[smtps("securesmtp.t-online.de"), submission("securesmtp.t-online.de")],
        app_password: required("https://www.telekom.de/hilfe/apps-dienste/e-mail/programme/passwort-verwalten"),
        source: "https://www.telekom.de/hilfe/apps-dienste/e-mail/einstellungen/posteingang-postausgang-server",
        ..PROVIDER
    },
    Provider {
        name: "IONOS (Germany)",
        domains: "ionos.de online.de onlinehome.de",
        exchanges: "kundenserver.de schlund.de ionos.de",
        incoming: &[imap("imap.ionos.de"), pop3("pop.ionos.de")],
        smtp: &[smtps("smtp.ionos.de"), submission("smtp.ionos.de")],
        source: "https://www.ionos.de/hilfe/index.php?id=2490",
        ..PROVIDER
    },
    Provider {
        name: "IONOS (United States)",
        domains: "ionos.com",
        exchanges: "ionos.com 1and1.com perfora.net",
        incoming: &[imap("imap.ionos.com"), pop3("pop.ionos.com")],
        smtp: &[smtps("smtp.ionos.com"), submission("smtp.ionos.com")],
        app_password: with_second_factor(
            "https://www.ionos.com/help/email/using-webmail/email-activate-and-configure-two-step-verification",
        ),
        source: "https://www.ionos.com/help/index.php?id=2490",
        ..PROVIDER
    },
    Provider {
        name: "IONOS (United Kingdom)",
        domains: "ionos.co.uk",
        exchanges: "ionos.co.uk 1and1.co.uk oneandone.co.uk",
        incoming: &[imap("imap.ionos.co.uk"), pop3("pop.ionos.co.uk")],
        smtp: &[smtps("smtp.ionos.co.uk"), submission("smtp.ionos.co.uk")],
        source: "https://www.ionos.co.uk/help/index.php?id=2490",
        ..PROVIDER
    },
    Provider {
        name: "IONOS (France)",
        domains: "ionos.fr",
        exchanges: "ionos.fr 1and1.fr unetun.com",
        incoming: &[imap("imap.ionos.fr"), pop3("pop.ionos.fr")],
        smtp: &[smtps("smtp.ionos.fr"), submission("smtp.ionos.fr")],
        source: "https://www.ionos.fr/assistance/index.php?id=2490",
        ..PROVIDER
    },
    Provider {
        name: "IONOS (Spain)",
        domains: "ionos.es",
        exchanges: "ionos.es 1and1.es",
        incoming: &[imap("imap.ionos.es"), pop3("pop.ionos.es")],
        smtp: &[smtps("smtp.ionos.es"), submission("smtp.ionos.es")],
        source: "https://www.ionos.es/ayuda/index.php?id=2490",
        ..PROVIDER
    },
    Provider {
        name: "STRATO",
        domains: "strato.de",
        exchanges: "rzone.de",
        incoming: &[imap("imap.strato.de"), pop3("pop3.strato.de")],
        smtp: &[smtps("smtp.strato.de"), submission("smtp.strato.de")],
        source: "https://www.strato.de/faq/mail/externes-e-mail-programm-mit-strato-e-mail-adresse-nutzen/",
        ..PROVIDER
    },
    Provider {
        name: "freenet",
        domains: "freenet.de",
        exchanges: "freenet.de",
        incoming: &[imap("mx.freenet.de")],
        smtp: &[smtps("mx.freenet.de"), submission("mx.freenet.de")],
        note: ENABLE_IMAP,
        source: "https://kundenservice.freenet.de/faq/e-mail-client-mail/\
            einstellungen-serverdaten-fuer-alle-e-mail-programme/",
        ..PROVIDER
    },
    Provider {
        name: "Posteo",
        domains: "\
            posteo.de posteo.net posteo.at posteo.be posteo.ca posteo.ch posteo.cl posteo.co posteo.co.uk posteo.com \
            posteo.com.br posteo.cr posteo.cz posteo.dk posteo.ee posteo.es posteo.eu posteo.fi posteo.gl posteo.gr \
            posteo.hn posteo.hr posteo.hu posteo.ie posteo.in posteo.is posteo.it posteo.jp posteo.la posteo.li \
            posteo.lt posteo.lu posteo.me posteo.mx posteo.my posteo.nl posteo.no posteo.nz posteo.org posteo.pe \
            posteo.pl posteo.pm posteo.pt posteo.ro posteo.se posteo.sg posteo.si posteo.tn posteo.uk posteo.us",
        exchanges: "posteo.de",
        incoming: &[imap("posteo.de"), pop3("posteo.de")],
        smtp: &[smtps("posteo.de"), submission("posteo.de")],
        source: "https://posteo.de/hilfe/wie-richte-ich-posteo-in-einem-mailprogramm-ein-pop3-imap-und-smtp",
        ..PROVIDER
    },
    Provider {
        name: "mailbox.org",
        domains: "mailbox.org secure.mailbox.org",
        exchanges: "mailbox.org",
        incoming: &[imap("imap.mailbox.org"), pop3("pop3.mailbox.org")],
        smtp: &[smtps("smtp.mailbox.org"), submission("smtp.mailbox.org")],
        app_password: with_second_factor(
            "https://kb.mailbox.org/de/privat/sicherheit-und-privatsphaere/\
            applikationspasswoerter-fuer-externe-programme/",
        ),
        source: "https://kb.mailbox.org/de/privat/e-mail/e-mail-konfiguration/",
        ..PROVIDER
    },
    Provider {
        name: "Fastmail",
        domains: "\
            fastmail.com fastmail.fm fastmail.cn fastmail.co.uk fastmail.com.au fastmail.de fastmail.es fastmail.fr \
            fastmail.im fastmail.in fastmail.jp fastmail.mx fastmail.net fastmail.nl fastmail.org fastmail.se \
            fastmail.to fastmail.tw fastmail.uk fastmail.us sent.com eml.cc fea.st mailcan.com imap.cc \
            messagingengine.com",
        exchanges: "messagingengine.com",
        incoming: &[imap("imap.fastmail.com"), pop3("pop.fastmail.com")],
        smtp: &[smtps("smtp.fastmail.com")],
        app_password: required("https://app.fastmail.com/settings/security/integrations"),
        source: "https://www.fastmail.help/hc/articles/1500000278342",
        ..PROVIDER
    },
    Provider {
        name: "Zoho Mail",
        domains: "zoho.com zohomail.com",
        incoming: &[imap("imap.zoho.com"), pop3("pop.zoho.com")],
        smtp: &[smtps("smtp.zoho.com"), submission("smtp.zoho.com")],
        app_password: with_second_factor("https://accounts.zoho.com/home#security/app_password"),
        note: ENABLE_IMAP,
        source: "https://www.zoho.com/mail/help/imap-access.html",
        ..PROVIDER
    },
    Provider {
        name: "Zoho Mail for own domains",
        exchanges: "zoho.com",
        incoming: &[imap("imappro.zoho.com"), pop3("poppro.zoho.com")],
        smtp: &[smtps("smtppro.zoho.com"), submission("smtppro.zoho.com")],
        app_password: with_second_factor("https://accounts.zoho.com/home#security/app_password"),
        note: ENABLE_IMAP,
        source: "https://www.zoho.com/mail/help/imap-access.html",
        ..PROVIDER
    },
    Provider {
        name: "Zoho Mail (Europe)",
        domains: "zohomail.eu",
        incoming: &[imap("imap.zoho.eu"), pop3("pop.zoho.eu")],
        smtp: &[smtps("smtp.zoho.eu"), submission("smtp.zoho.eu")],
        app_password: with_second_factor("https://accounts.zoho.eu/home#security/app_password"),
        note: ENABLE_IMAP,
        source: "https://www.zoho.com/mail/help/imap-access.html",
        ..PROVIDER
    },
    Provider {
        name: "Zoho Mail for own domains (Europe)",
        exchanges: "zoho.eu",
        incoming: &[imap("imappro.zoho.eu"), pop3("poppro.zoho.eu")],
        smtp: &[smtps("smtppro.zoho.eu"), submission("smtppro.zoho.eu")],
        app_password: with_second_factor("https://accounts.zoho.eu/home#security/app_password"),
        note: ENABLE_IMAP,
        source: "https://www.zoho.com/mail/help/imap-access.html",
        ..PROVIDER
    },
    Provider {
        name: "Zoho Mail for own domains (India)",
        exchanges: "zoho.in",
        incoming: &[imap("imappro.zoho.in"), pop3("poppro.zoho.in")],
        smtp: &[smtps("smtppro.zoho.in"), submission("smtppro.zoho.in")],
        app_password: with_second_factor("https://accounts.zoho.in/home#security/app_password"),
        note: ENABLE_IMAP,
        source: "https://www.zoho.com/mail/help/imap-access.html",
        ..PROVIDER
    },
    Provider {
        name: "Yandex Mail",
        domains: "yandex.ru yandex.com yandex.by yandex.kz yandex.ua yandex.com.tr ya.ru narod.ru",
        exchanges: "yandex.net yandex.ru",
        incoming: &[imap("imap.yandex.com"), pop3("pop.yandex.com")],
        smtp: &[smtps("smtp.yandex.com")],
        oauth2: Some("yandex"),
        app_password: required("https://yandex.com/support/passport/authorization/app-passwords.html"),
        note: ENABLE_IMAP,
        source: "https://yandex.com/support/mail/mail-clients/others.html",
    },
    Provider {
        name: "Mail.ru",
        domains: "mail.ru inbox.ru list.ru bk.ru internet.ru",
        exchanges: "mail.ru",
        incoming: &[imap("imap.mail.ru"), pop3("pop.mail.ru")],
        smtp: &[smtps("smtp.mail.ru")],
        oauth2: Some("mailru"),
        app_password: required("https://help.mail.ru/mail/security/protection/external"),
        source: "https://help.mail.ru/mail-help/mailer/mt",
        ..PROVIDER
    },
    Provider {
        name: "QQ Mail",
        domains: "qq.com foxmail.com vip.qq.com",
        incoming: &[imap("imap.qq.com"), pop3("pop.qq.com")],
        smtp: &[smtps("smtp.qq.com"), submission("smtp.qq.com")],
        app_password: required("https://service.mail.qq.com/cgi-bin/help?subtype=1&id=28&no=331"),
        note: ENABLE_IMAP,
        source: "https://service.mail.qq.com/cgi-bin/help?subtype=1&id=28&no=331",
        ..PROVIDER
    },
    Provider {
        name: "Tencent Exmail",
        exchanges: "mxbiz1.qq.com mxbiz2.qq.com",
        incoming: &[imap("imap.exmail.qq.com"), pop3("pop.exmail.qq.com")],
        smtp: &[smtps("smtp.exmail.qq.com")],
        app_password: with_second_factor("https://exmail.qq.com"),
        note: ENABLE_IMAP,
        source: "https://service.exmail.qq.com/cgi-bin/help?subtype=1&id=28&no=1000564",
        ..PROVIDER
    },
    Provider {
        name: "NetEase 163",
        domains: "163.com",
        incoming: &[imap("imap.163.com"), pop3("pop.163.com")],
        smtp: &[smtps("smtp.163.com")],
        app_password: required("https://mail.163.com"),
        note: ENABLE_IMAP,
        source: "https://help.mail.163.com/faq.do?m=list&categoryID=90",
        ..PROVIDER
    },
    Provider {
        name: "NetEase 126",
        domains: "126.com",
        incoming: &[imap("imap.126.com"), pop3("pop.126.com")],
        smtp: &[smtps("smtp.126.com")],
        app_password: required("https://mail.126.com"),
        note: ENABLE_IMAP,
        source: "https://help.mail.163.com/faq.do?m=list&categoryID=90",
        ..PROVIDER
    },
    Provider {
        name: "Naver",
        domains: "naver.com",
        incoming: &[imap("imap.naver.com"), pop3("pop.naver.com")],
        smtp: &[smtps("smtp.naver.com"), submission("smtp.naver.com")],
        app_password: with_second_factor("https://help.naver.com/service/30029/contents/21342"),
        note: ENABLE_IMAP,
        source: "https://help.naver.com/service/30029/contents/21342",
        ..PROVIDER
    },
    Provider {
        name: "Orange (France)",
        domains: "orange.fr wanadoo.fr",
        exchanges: "orange.fr",
        incoming: &[imap("imap.orange.fr"), pop3("pop.orange.fr")],
        smtp: &[smtps("smtp.orange.fr")],
        source: "https://assistance.orange.fr/ordinateurs-peripheriques/installer-et-utiliser/\
            l-utilisation-du-mail-et-du-cloud/mail-orange/le-mail-orange-nouvelle-version/parametrer-la-boite-mail/\
            mail-orange-comment-acceder-a-sa-boite-mail-orange-depuis-une-application-ou-un-logiciel-\
            de-messagerie-non-fourni-par-orange_434630-964290",
        ..PROVIDER
    },
    Provider {
        name: "Free",
        domains: "free.fr",
        exchanges: "free.fr",
        incoming: &[imap("imap.free.fr").by_local_part(), pop3("pop.free.fr").by_local_part()],
        smtp: &[smtps("smtp.free.fr").by_local_part()],
        source: "https://assistance.free.fr/articles/configurer-de-maniere-avancee-mon-logiciel-de-messagerie-609",
        ..PROVIDER
    },
    Provider {
        name: "La Poste",
        domains: "laposte.net",
        exchanges: "laposte.net",
        incoming: &[imap("imap.laposte.net").by_local_part(), pop3("pop.laposte.net").by_local_part()],
        smtp: &[smtps("smtp.laposte.net").by_local_part()],
        source: "https://aide.laposte.net/",
        ..PROVIDER
    },
    Provider {
        name: "Libero",
        domains: "libero.it iol.it blu.it inwind.it giallo.it",
        exchanges: "libero.it",
        incoming: &[imap("imapmail.libero.it"), pop3("popmail.libero.it")],
        smtp: &[smtps("smtp.libero.it")],
        app_password: with_second_factor("https://aiuto.libero.it/articolo/mail/password-specifiche/"),
        source: "https://aiuto.libero.it/articolo/mail/parametri-di-configurazione-per-il-client-di-posta/",
        ..PROVIDER
    },
    Provider {
        name: "Seznam",
        domains: "seznam.cz email.cz post.cz spoluzaci.cz",
        exchanges: "seznam.cz",
        incoming: &[imap("imap.seznam.cz"), pop3("pop3.seznam.cz")],
        smtp: &[smtps("smtp.seznam.cz")],
        app_password: with_second_factor("https://o-seznam.cz/napoveda/ucet/en/dvoufazove-overeni/postovni-programy/"),
        source: "https://o-seznam.cz/napoveda/email/mohlo-by-se-hodit/postovni-programy-a-aplikace/",
        ..PROVIDER
    },
    Provider {
        name: "Proton Mail",
        domains: "proton.me protonmail.com protonmail.ch pm.me",
        exchanges: "protonmail.ch",
        note: Some("Proton Mail has IMAP only through its Bridge, a program on the user's own computer"),
        source: "https://proton.me/support/imap-smtp-and-pop3-setup",
        ..PROVIDER
    },
    Provider {
        name: "Tuta",
        domains: "tuta.com tuta.io tutamail.com tutanota.com tutanota.de keemail.me",
        exchanges: "tutanota.de",
        note: Some("Tuta has neither IMAP nor POP3"),
        source: "https://tuta.com/support#imap",
        ..PROVIDER
    },
    Provider {
        name: "OVHcloud MX Plan",
        exchanges: "mail.ovh.net",
        incoming: &[imap("ssl0.ovh.net"), pop3("ssl0.ovh.net")],
        smtp: &[smtps("ssl0.ovh.net"), submission("ssl0.ovh.net")],
        source: "https://help.ovhcloud.com/csm/en-mx-plan-email-generalities",
        ..PROVIDER
    },
    Provider {
        name: "Gandi",
        domains: "gandi.net",
        // spool.mail.gandi.net, fb.mail.gandi.net
        exchanges: "mail.gandi.net",
        incoming: &[imap("mail.gandi.net"), pop3("mail.gandi.net")],
        smtp: &[smtps("mail.gandi.net"), submission("mail.gandi.net")],
        source: "https://docs.gandi.net/en/gandimail/standard_email_settings/index.html",
        ..PROVIDER
    },
    Provider {
        name: "Infomaniak",
        domains: "ik.me ikmail.com etik.com infomaniak.com",
        exchanges: "infomaniak.ch",
        incoming: &[imap("mail.infomaniak.com"), pop3("mail.infomaniak.com")],
        smtp: &[smtps("mail.infomaniak.com"), submission("mail.infomaniak.com")],
        source: "https://www.infomaniak.com/en/support/faq/2427/sync-your-emails-across-all-your-devices",
        ..PROVIDER
    },
    Provider {
        name: "Migadu",
        exchanges: "migadu.com",
        incoming: &[imap("imap.migadu.com")],
        smtp: &[smtps("smtp.migadu.com")],
        source: "https://www.migadu.com/guides/imap/",
        ..PROVIDER
    },
    Provider {
        name: "Rackspace Email",
        domains: "emailsrvr.com",
        exchanges: "emailsrvr.com",
        incoming: &[imap("secure.emailsrvr.com"), pop3("secure.emailsrvr.com")],
        smtp: &[smtps("secure.emailsrvr.com"), submission("secure.emailsrvr.com")],
        source: "https://docs.rackspace.com/docs/rackspace-email-settings",
        ..PROVIDER
    },
    Provider {
        name: "Comcast Xfinity",
        domains: "comcast.net",
        incoming: &[imap("imap.comcast.net"), pop3("mail.comcast.net")],
        smtp: &[smtps("smtp.comcast.net"), submission("smtp.comcast.net")],
        oauth2: Some("comcast"),
        note: Some("Access by other programs must be allowed in the security settings of Xfinity Email"),
        source: "https://www.xfinity.com/support/articles/third-party-email-access",
        ..PROVIDER
    },
    Provider {
        name: "AT&T Mail",
        domains: "\
            att.net ameritech.net bellsouth.net currently.com flash.net nvbell.net pacbell.net prodigy.net \
            sbcglobal.net snet.net swbell.net wans.net",
        incoming: &[imap("imap.mail.att.net"), pop3("inbound.att.net")],
        smtp: &[smtps("smtp.mail.att.net"), smtps("outbound.att.net")],
        app_password: required("https://www.att.com/support/article/email-support/KM1240308/"),
        source: "https://www.att.com/support/article/email-support/KM1010523/",
        ..PROVIDER
    },
    Provider {
        name: "one.com",
        domains: "one.com",
        exchanges: "one.com",
        incoming: &[imap("imap.one.com")],
        smtp: &[smtps("send.one.com")],
        source: "https://help.one.com/hc/articles/115005594145",
        ..PROVIDER
    },
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::{TABLE, by_domain, by_exchange, by_server, is_below};
    use crate::dns::ascii_name;
    use crate::login::Protocol;

    #[test]
    fn rows_are_whole() {
        for row in &TABLE {
            let name = row.name;
            assert!(!name.is_empty() && row.source.starts_with("https://"), "{name}");
            assert!(!row.domains.is_empty() || !row.exchanges.is_empty(), "{name} is found by nothing");
            for url in row.app_password.iter().map(|password| password.url).chain([row.source]) {
                assert!(url.starts_with("https://") && !url.contains(' '), "{name}: {url}");
            }
            // Who offers no IMAP must say what instead.
            assert!(row.note.is_some() || !row.incoming.is_empty(), "{name}");
            assert_eq!(row.incoming.is_empty(), row.smtp.is_empty(), "{name}");
            for host in row.incoming {
                assert!(matches!(host.protocol, Protocol::Imap | Protocol::Pop3), "{name}");
            }
            for host in row.smtp {
                assert_eq!(host.protocol, Protocol::Smtp, "{name}");
            }
            let named = row.domains.split_whitespace().chain(row.exchanges.split_whitespace());
            for host in named.chain(row.incoming.iter().chain(row.smtp).map(|host| host.name)) {
                assert_eq!(ascii_name(host).as_deref(), Some(host), "{name}");
            }
        }
    }

    #[test]
    fn nothing_is_in_two_rows() {
        let (mut domains, mut exchanges) = (HashSet::new(), HashSet::new());
        for row in &TABLE {
            for domain in row.domains.split_whitespace() {
                assert!(domains.insert(domain), "{domain}");
            }
            for exchange in row.exchanges.split_whitespace() {
                assert!(exchanges.insert(exchange), "{exchange}");
            }
        }
        // No end of a name may hide a longer one behind it.
        for one in &exchanges {
            assert!(exchanges.iter().all(|other| one == other || !is_below(one, other)), "{one}");
        }
    }

    #[test]
    fn providers_are_found_by_domain_exchange_and_server() {
        let name = |found: Option<&'static super::Provider>| found.map(|row| row.name);
        assert_eq!(name(by_domain("googlemail.com")), Some("Gmail and Google Workspace"));
        assert_eq!(name(by_domain("hotmail.co.uk")), Some("Outlook.com"));
        assert_eq!(name(by_domain("live.com.sg")), Some("Outlook.com"));
        for not_there in ["", " ", "example.com", "notgmail.com", "mail.gmail.com", "hotmail.com live.com"] {
            assert_eq!(name(by_domain(not_there)), None, "{not_there:?}");
        }
        for (host, expected) in [
            ("aspmx.l.google.com", Some("Gmail and Google Workspace")),
            ("alt4.aspmx.l.google.com", Some("Gmail and Google Workspace")),
            ("aspmx5.googlemail.com", Some("Gmail and Google Workspace")),
            ("example-com.mail.protection.outlook.com", Some("Microsoft 365")),
            ("example-com.a-v1.mx.microsoft", Some("Microsoft 365")),
            ("eur.olc.protection.outlook.com", Some("Outlook.com")),
            ("mta5.am0.yahoodns.net", Some("Yahoo Mail")),
            ("mx.zoho.eu", Some("Zoho Mail for own domains (Europe)")),
            ("in1-smtp.messagingengine.com", Some("Fastmail")),
            ("mxbiz1.qq.com", Some("Tencent Exmail")),
            ("mx3.qq.com", None),
            ("google.com.example.org", None),
            ("notgoogle.com", None),
            ("", None),
        ] {
            assert_eq!(name(by_exchange(host)), expected, "{host}");
        }
        assert_eq!(name(by_server("imap.gmail.com")), Some("Gmail and Google Workspace"));
        assert_eq!(by_server("outlook.office365.com").and_then(super::Provider::oauth2).as_deref(), Some("microsoft"));
        assert_eq!(name(by_server("gmail.com")), None);
    }

    #[test]
    fn the_most_used_providers_are_there() {
        for domain in [
            "gmail.com",
            "outlook.com",
            "hotmail.com",
            "live.com",
            "msn.com",
            "yahoo.com",
            "aol.com",
            "icloud.com",
            "me.com",
            "mac.com",
            "gmx.de",
            "gmx.net",
            "gmx.com",
            "web.de",
            "t-online.de",
            "ionos.de",
            "strato.de",
            "freenet.de",
            "posteo.de",
            "mailbox.org",
            "fastmail.com",
            "zoho.com",
            "yandex.ru",
            "mail.ru",
            "qq.com",
            "163.com",
            "126.com",
            "naver.com",
            "orange.fr",
            "free.fr",
            "laposte.net",
            "libero.it",
            "seznam.cz",
            "proton.me",
            "ik.me",
            "comcast.net",
            "att.net",
        ] {
            assert!(by_domain(domain).is_some(), "{domain}");
        }
    }
}
