// Accounts: adding one by its address, and what can be done with those that are there.

import { type Signal, useSignal } from "@preact/signals";
import { type Account, ApiError, type FoundSettings, type NewAccount, type TestResult } from "email-service-client";
import type { InputHTMLAttributes } from "preact";

import { api } from "./api";
import { ask, closeDialog } from "./dialog";
import { getMail, loadAccounts } from "./mail";
import { attempt, useTask } from "./task";
import { say } from "./toasts";
import { troubleOf } from "./words";

type Settings = Omit<NewAccount, "password" | "accountName"> & { smtpEncryption: NonNullable<NewAccount["smtpEncryption"]> };

/** Where providers send the browser back to. */
const CONNECTED = `${location.origin}/connected`;

/** What to do about a server that refused. */
const ADVICE: Record<NonNullable<TestResult["incoming"]["code"]>, string> = {
  authentication: "Correct the name or the password; many providers want a password for programs.",
  unreachable: "Correct the host name, the port or the encryption.",
  tls: "Correct the host name, the port or the encryption: the connection is not safe as it is.",
  protocol: "Correct the port or the protocol.",
  unavailable: "Nothing is wrong here: try again in some minutes.",
  mailboxMissing: "Ask the provider: the mailbox is not there.",
  consentRevoked: "Connect the account with its provider again.",
};

function settingsOf(emailAddress: string, found: FoundSettings | undefined): Settings {
  const [server, sender] = [found?.incoming[0], found?.smtp[0]];
  return {
    emailAddress,
    protocol: server?.protocol ?? "imap", hostname: server?.hostname ?? "", port: server?.port ?? 993,
    encryption: server?.encryption ?? "tls", username: server?.username ?? emailAddress,
    smtpHostname: sender?.hostname ?? "", smtpPort: sender?.port ?? 465, smtpEncryption: sender?.encryption ?? "tls",
    smtpUsername: sender?.username ?? emailAddress,
  };
}

/** What is wrong and what to do, of a try that was refused. */
function refusalOf({ incoming, smtp }: TestResult): string | undefined {
  const failed = [incoming, smtp].find((server) => server && !server.success);
  const what = failed?.service === "smtp" ? "The server for sending" : "The server for reading";
  return failed ? `${what} says: ${failed.message ?? "no"} ${failed.code ? ADVICE[failed.code] : ""}` : undefined;
}

/** An input whose text is a signal's. */
function Field({ label, text, ...input }: { label: string; text: Signal<string> } & InputHTMLAttributes) {
  return <label>{label}<input {...input} value={text} onInput={({ currentTarget }) => (text.value = currentTarget.value)} /></label>;
}

/** First the address, then what was found for it. */
export function AddAccount() {
  const address = useSignal("");
  const answer = useSignal<{ emailAddress: string; found: FoundSettings | undefined } | undefined>(undefined);
  const { doing, problem, run } = useTask();
  const find = () => run("Looking for its settings …", async () => {
    const emailAddress = address.value.trim();
    const found = await api.findSettings(emailAddress).catch((error: unknown) => {
      // Nobody knows them but the reader.
      if (error instanceof ApiError && error.kind === "Not found") return undefined;
      throw error;
    });
    answer.value = { emailAddress, found };
  });
  if (answer.value) return <SettingsForm {...answer.value} onBack={() => (answer.value = undefined)} />;
  return (
    <form class="form" onSubmit={(event) => (event.preventDefault(), void find())}>
      <Field label="Your mail address" text={address} type="email" name="address" required autofocus autocomplete="email" />
      {problem.value && <p class="problem" role="alert">{problem.value}</p>}
      <footer><button type="submit" class="primary" disabled={!!doing.value}>{doing.value || "Go on"}</button></footer>
    </form>
  );
}

function SettingsForm({ emailAddress, found, onBack }: { emailAddress: string; found: FoundSettings | undefined; onBack: () => void }) {
  const [settings, password, key] = [useSignal(settingsOf(emailAddress, found)), useSignal(""), useSignal(crypto.randomUUID())];
  const { doing, problem, run } = useTask();
  const save = () => run("Trying to sign in …", async () => {
    const { smtpHostname, ...rest } = settings.value;
    const account = { ...rest, accountName: emailAddress, password: password.value, ...(smtpHostname && { smtpHostname }) };
    const refusal = refusalOf(await api.testSettings(account));
    if (refusal) return refusal;
    doing.value = "Saving …";
    const created = await api.createAccount(account, { idempotencyKey: key.value }).catch((error: unknown) => {
      if (error instanceof ApiError && error.kind === "Unprocessable") key.value = crypto.randomUUID();
      throw error;
    });
    say(`${emailAddress} is added. Its mail is being fetched.`);
    await loadAccounts();
    void getMail(created);
    closeDialog();
  });
  const { oauth2, appPassword, source = "", evidence = [], incoming } = found ?? {};
  const { hostname, port, smtpHostname, smtpPort } = settings.value;
  const isGuess = source === "srv" || source.startsWith("mx");
  // As the service has it, of servers that are nowhere near the address.
  const isDoubtful = isGuess && evidence.some((line) => line.includes("confirm before a password is sent"));
  return (
    <form class="form" onSubmit={(event) => (event.preventDefault(), void save())}>
      {!found && <p class="note">Nobody knows the servers of {emailAddress}. Its provider&rsquo;s help pages do: enter them here.</p>}
      {found && incoming?.length === 0 && <p class="note">This provider lets no program in.</p>}
      {found && <p>Found: <b>{hostname}:{port}</b> for reading{smtpHostname && <>, <b>{smtpHostname}:{smtpPort}</b> for sending</>}.</p>}
      {isGuess && (
        <details class="hint" open={isDoubtful}>
          <summary>Is this your provider? Look before you go on.</summary>
          <ul>{evidence.map((line) => <li key={line}>{line}</li>)}</ul>
        </details>
      )}
      {isDoubtful && <label class="check"><input type="checkbox" name="sure" required /> This is my provider</label>}
      {oauth2 && (
        <button type="button" class="primary" onClick={() => void signIn(oauth2, { emailAddress })}>Sign in with {capitalised(oauth2)}</button>
      )}
      {appPassword && (
        <p class="note">
          {appPassword.required ? "It refuses the usual password. " : "If the usual password is refused: "}
          <a href={appPassword.url} target="_blank" rel="noopener noreferrer">Make one for programs</a>, and enter it here.
        </p>
      )}
      <Field label="Password" text={password} type="password" name="password" required autofocus autocomplete="current-password" />
      <details open={!found}>
        <summary>Servers</summary>
        <Server legend="Reading" settings={settings} />
        <Server legend="Sending" settings={settings} prefix="smtp" />
      </details>
      {problem.value && <p class="problem" role="alert">{problem.value}</p>}
      <footer>
        <button type="submit" class="primary" disabled={!!doing.value}>{doing.value || "Test and save"}</button>
        <button type="button" onClick={onBack}>Another address</button>
      </footer>
    </form>
  );
}

function Server({ legend, settings, prefix = "" }: { legend: string; settings: Signal<Settings>; prefix?: "smtp" | "" }) {
  /** What makes an input or a choice one of a field of the settings. */
  const bound = (field: string, read: (text: string) => string | number | null = (text) => text) => {
    const name = (prefix ? prefix + capitalised(field) : field) as keyof Settings;
    const onInput = ({ currentTarget }: { currentTarget: { value: string } }) =>
      (settings.value = { ...settings.value, [name]: read(currentTarget.value) });
    return { name, value: String(settings.value[name] ?? ""), onInput };
  };
  return (
    <fieldset>
      <legend>{legend}</legend>
      {!prefix && (
        <label>
          Protocol
          <select {...bound("protocol")}><option value="imap">IMAP</option><option value="pop3">POP3</option></select>
        </label>
      )}
      <label class="wide">Host name<input {...bound("hostname", (text) => text.trim())} required={!prefix} /></label>
      <label>Port<input {...bound("port", Number)} type="number" min={1} max={65535} required /></label>
      <label>
        Encryption
        <select {...bound("encryption")}>
          <option value="tls">TLS</option><option value="starttls">STARTTLS</option><option value="none">none</option>
        </select>
      </label>
      <label class="wide">User name<input {...bound("username", (text) => text || null)} placeholder={settings.value.username} /></label>
    </fieldset>
  );
}

const capitalised = (word: string) => word.charAt(0).toUpperCase() + word.slice(1);

/** Sends the browser to the provider, which sends it back to `CONNECTED`. */
const signIn = (provider: string, whose: { emailAddress: string } | { accountId: string }) => attempt(async () => {
  const { authorizationUrl } = await api.startSignIn({ provider, redirectUri: CONNECTED, ...whose });
  location.assign(authorizationUrl);
});

/** On the way back from a provider. */
export async function finishSignIn(): Promise<void> {
  if (location.href.split(/[?#]/)[0] !== CONNECTED) return;
  const url = location.href;
  // What is in the address works once: not for who reloads, and not for the history.
  history.replaceState(null, "", "/");
  await attempt(async () => {
    const account = await api.finishSignIn(url);
    say(`${account.emailAddress} is connected. Its mail is being fetched.`);
    void getMail(account);
  });
}

export const addAccount = () => ask("Add an account", <AddAccount />);
export const showAccount = (account: Account) => ask(account.emailAddress, <AccountForm account={account} />);

function AccountForm({ account }: { account: Account }) {
  const { id, emailAddress, accountName, hostname, smtpHostname, authType, provider } = account;
  const [name, password, isSure] = [useSignal(accountName), useSignal(""), useSignal(false)];
  const { doing, problem, run } = useTask();
  const save = () => run("Saving …", async () => {
    if (password.value) {
      const refusal = refusalOf(await api.testAccount(id, { password: password.value }));
      if (refusal) return refusal;
    }
    await api.updateAccount(id, { accountName: name.value, ...(password.value && { password: password.value }) });
    if (password.value) void getMail(account);
    closeDialog();
    await loadAccounts();
  });
  const remove = () => run("Removing …", async () => {
    await api.deleteAccount(id);
    say(`${emailAddress} is removed. Its mail stays on its server.`);
    closeDialog();
    await loadAccounts();
  });
  return (
    <form class="form" onSubmit={(event) => (event.preventDefault(), void save())}>
      {troubleOf(account) && <p class="problem">{troubleOf(account)} {account.lastError?.message}</p>}
      <p class="hint">Reads at {hostname}, {smtpHostname ? `sends at ${smtpHostname}` : "cannot send"}.</p>
      <Field label="Name" text={name} name="name" required />
      {authType === "oauth2" && provider
        ? <p><button type="button" onClick={() => void signIn(provider, { accountId: id })}>Connect again</button></p>
        : <Field label="New password" text={password} type="password" name="password" autocomplete="new-password" placeholder="as it is" />}
      {problem.value && <p class="problem" role="alert">{problem.value}</p>}
      <footer>
        <button type="submit" class="primary" disabled={!!doing.value}>Save</button>
        <button type="button" onClick={() => (closeDialog(), void getMail(account))}>Look for new mail</button>
        {isSure.value
          ? <button type="button" class="danger" disabled={!!doing.value} onClick={() => void remove()}>Remove it from here for good</button>
          : <button type="button" onClick={() => (isSure.value = true)}>Remove …</button>}
      </footer>
    </form>
  );
}
