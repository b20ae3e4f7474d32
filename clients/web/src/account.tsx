// Accounts: adding one by its address, and what can be done with those that are there.

import { type Signal, useSignal } from "@preact/signals";
import { type Account, ApiError, type FoundSettings, type NewAccount, type TestResult } from "email-service-client";
import type { ComponentChildren, InputHTMLAttributes } from "preact";

import { api, explain } from "./api";
import { ask, closeDialog } from "./dialog";
import { getMail, loadAccounts } from "./mail";
import { complain, say } from "./toasts";
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
  const [address, problem, isBusy] = [useSignal(""), useSignal(""), useSignal(false)];
  const settings = useSignal<{ first: Settings; found: FoundSettings | undefined } | undefined>(undefined);
  const find = async () => {
    isBusy.value = true;
    problem.value = "";
    try {
      const found = await api.findSettings(address.value.trim()).catch((error: unknown) => {
        // Nobody knows them but the reader.
        if (error instanceof ApiError && error.kind === "Not found") return undefined;
        throw error;
      });
      settings.value = { first: settingsOf(address.value.trim(), found), found };
    } catch (error) {
      problem.value = explain(error);
    }
    isBusy.value = false;
  };
  if (settings.value) return <SettingsForm {...settings.value} onBack={() => (settings.value = undefined)} />;
  return (
    <form class="form" onSubmit={(event) => (event.preventDefault(), void find())}>
      <Field label="Your mail address" text={address} type="email" name="address" required autofocus autocomplete="email" />
      {problem.value && <p class="problem" role="alert">{problem.value}</p>}
      <footer><button type="submit" class="primary" disabled={isBusy.value}>{isBusy.value ? "Looking for its settings …" : "Go on"}</button></footer>
    </form>
  );
}

interface FormProps {
  first: Settings;
  found: FoundSettings | undefined;
  onBack: () => void;
}

function SettingsForm({ first, found, onBack }: FormProps) {
  const [settings, password, problem, busy] = [useSignal(first), useSignal(""), useSignal(""), useSignal("")];
  const key = useSignal(crypto.randomUUID());
  const { emailAddress } = first;
  const set = (change: Partial<Settings>) => (settings.value = { ...settings.value, ...change });
  const save = async () => {
    problem.value = "";
    const { smtpHostname, ...rest } = settings.value;
    const account = { ...rest, accountName: emailAddress, password: password.value, ...(smtpHostname && { smtpHostname }) };
    try {
      busy.value = "Trying to sign in …";
      problem.value = refusalOf(await api.testSettings(account)) ?? "";
      if (!problem.value) {
        busy.value = "Saving …";
        const created = await api.createAccount(account, { idempotencyKey: key.value });
        say(`${emailAddress} is added. Its mail is being fetched.`);
        await loadAccounts();
        void getMail(created);
        closeDialog();
      }
    } catch (error) {
      if (error instanceof ApiError && error.kind === "Unprocessable") key.value = crypto.randomUUID();
      problem.value = explain(error);
    }
    busy.value = "";
  };
  const { oauth2, appPassword, source = "", evidence = [], incoming } = found ?? {};
  const { protocol, hostname, port, smtpHostname, smtpPort } = settings.value;
  return (
    <form class="form" onSubmit={(event) => (event.preventDefault(), void save())}>
      {!found && <p class="note">Nobody knows the servers of {emailAddress}. Its provider&rsquo;s help pages do: enter them here.</p>}
      {found && incoming?.length === 0 && <p class="note">This provider lets no program in.</p>}
      {found && <p>Found: <b>{hostname}:{port}</b> for reading{smtpHostname && <>, <b>{smtpHostname}:{smtpPort}</b> for sending</>}.</p>}
      {(source === "srv" || source.startsWith("mx")) && (
        <details class="hint">
          <summary>Is this your provider? Look before you go on.</summary>
          <ul>{evidence.map((line) => <li key={line}>{line}</li>)}</ul>
        </details>
      )}
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
        <Server legend="Reading" prefix="" settings={settings.value} set={set}>
          <label>
            Protocol
            <select value={protocol} onChange={({ currentTarget }) => set({ protocol: currentTarget.value as Settings["protocol"] })}>
              <option value="imap">IMAP</option><option value="pop3">POP3</option>
            </select>
          </label>
        </Server>
        <Server legend="Sending" prefix="smtp" settings={settings.value} set={set} />
      </details>
      {problem.value && <p class="problem" role="alert">{problem.value}</p>}
      <footer>
        <button type="submit" class="primary" disabled={!!busy.value}>{busy.value || "Test and save"}</button>
        <button type="button" onClick={onBack}>Another address</button>
      </footer>
    </form>
  );
}

interface ServerProps {
  legend: string;
  prefix: "" | "smtp";
  settings: Settings;
  set: (change: Partial<Settings>) => void;
  children?: ComponentChildren;
}

function Server({ legend, prefix, settings, set, children }: ServerProps) {
  const nameOf = (field: string) => (prefix ? prefix + capitalised(field) : field) as keyof Settings;
  const input = (field: string, more: InputHTMLAttributes, read: (text: string) => string | number | null) => (
    <input
      {...more} name={nameOf(field)} value={String(settings[nameOf(field)] ?? "")}
      onInput={({ currentTarget }) => set({ [nameOf(field)]: read(currentTarget.value) })}
    />
  );
  const encryption = nameOf("encryption");
  return (
    <fieldset>
      <legend>{legend}</legend>
      {children}
      <label class="wide">Host name{input("hostname", { required: !prefix }, (text) => text.trim())}</label>
      <label>Port{input("port", { type: "number", min: 1, max: 65535, required: true }, Number)}</label>
      <label>
        Encryption
        <select value={String(settings[encryption])} onChange={({ currentTarget }) => set({ [encryption]: currentTarget.value })}>
          <option value="tls">TLS</option><option value="starttls">STARTTLS</option><option value="none">none</option>
        </select>
      </label>
      <label class="wide">User name{input("username", { placeholder: settings.username }, (text) => text || null)}</label>
    </fieldset>
  );
}

const capitalised = (word: string) => word.charAt(0).toUpperCase() + word.slice(1);

/** Sends the browser to the provider, which sends it back to `CONNECTED`. */
async function signIn(provider: string, whose: { emailAddress: string } | { accountId: string }): Promise<void> {
  try {
    const { authorizationUrl } = await api.startSignIn({ provider, redirectUri: CONNECTED, ...whose });
    location.assign(authorizationUrl);
  } catch (error) {
    complain(explain(error));
  }
}

/** On the way back from a provider. */
export async function finishSignIn(): Promise<void> {
  if (location.href.split(/[?#]/)[0] !== CONNECTED) return;
  const url = location.href;
  // What is in the address works once: not for who reloads, and not for the history.
  history.replaceState(null, "", "/");
  try {
    const account = await api.finishSignIn(url);
    say(`${account.emailAddress} is connected. Its mail is being fetched.`);
    void getMail(account);
  } catch (error) {
    complain(explain(error));
  }
}

export const addAccount = () => ask("Add an account", <AddAccount />);
export const showAccount = (account: Account) => ask(account.emailAddress, <AccountForm account={account} />);

function AccountForm({ account }: { account: Account }) {
  const { id, emailAddress, accountName, hostname, smtpHostname, authType, provider } = account;
  const [name, password, problem] = [useSignal(accountName), useSignal(""), useSignal("")];
  const [isBusy, isSure] = [useSignal(false), useSignal(false)];
  const attempt = async (what: () => Promise<string | undefined>) => {
    isBusy.value = true;
    try {
      problem.value = (await what()) ?? "";
      if (!problem.value) closeDialog();
      await loadAccounts();
    } catch (error) {
      problem.value = explain(error);
    }
    isBusy.value = false;
  };
  const save = () => attempt(async () => {
    if (password.value) {
      const refusal = refusalOf(await api.testAccount(id, { password: password.value }));
      if (refusal) return refusal;
    }
    await api.updateAccount(id, { accountName: name.value, ...(password.value && { password: password.value }) });
    if (password.value) void getMail(account);
    return undefined;
  });
  const remove = () => attempt(async () => {
    await api.deleteAccount(id);
    say(`${emailAddress} is removed. Its mail stays on its server.`);
    return undefined;
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
        <button type="submit" class="primary" disabled={isBusy.value}>Save</button>
        <button type="button" onClick={() => (closeDialog(), void getMail(account))}>Look for new mail</button>
        {isSure.value
          ? <button type="button" class="danger" onClick={() => void remove()}>Remove it from here for good</button>
          : <button type="button" onClick={() => (isSure.value = true)}>Remove …</button>}
      </footer>
    </form>
  );
}
