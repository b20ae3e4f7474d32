-- Accounts that sign in with a provider: sign-ins that have begun, sealed tokens, and whose turn it is to refresh them.
set local lock_timeout = '5s';
set local role email_service_owner;

-- A sign-in from the moment that a page asks for its beginning until its user is back from the provider.
create table oauth2_authorizations (
    -- The state itself is with the browser alone: who has a dump can finish nobody's sign-in.
    state_hash      bytea         primary key constraint oauth2_authorizations_state_hash_check check (octet_length(state_hash) = 32),
    tenant_id       uuid          not null,
    user_id         uuid          not null,
    provider        varchar(64)   not null,
    redirect_uri    varchar(2048) not null,
    -- Null once it was used.
    verifier_half   bytea         constraint oauth2_authorizations_verifier_half_check check (octet_length(verifier_half) = 32),
    account_id      uuid,
    address_key     text collate "C",
    lacks_consent   boolean       not null default false,
    created_at      bigint        not null,
    expires_at      bigint        not null
);
comment on table oauth2_authorizations is 'Sign-ins with a provider that have begun. They end after ten minutes, and are forgotten then.';
comment on column oauth2_authorizations.state_hash is 'SHA-256 of the state.';
comment on column oauth2_authorizations.verifier_half is 'The PKCE verifier is a hash of this and the state: neither a browser nor a dump of the database has both.';
comment on column oauth2_authorizations.account_id is 'The account that is to be reconnected; null for a new one.';
comment on column oauth2_authorizations.address_key is 'The only address that will do, as email_accounts.address_key has it; null for any.';
comment on column oauth2_authorizations.lacks_consent is 'The provider gave no refresh token: the next sign-in asks for consent.';
create index oauth2_authorizations_user_idx on oauth2_authorizations (tenant_id, user_id);
create index oauth2_authorizations_expires_at_idx on oauth2_authorizations (expires_at);

-- As in V2.
alter table oauth2_authorizations enable row level security;
alter table oauth2_authorizations force row level security;
create policy oauth2_authorizations_scope on oauth2_authorizations
    using (
        tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid)
        and user_id = (select nullif(current_setting('app.user_id', true), '')::uuid)
    )
    with check (
        tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid)
        and user_id = (select nullif(current_setting('app.user_id', true), '')::uuid)
    );
grant select, insert on oauth2_authorizations to email_service_app;
grant update (verifier_half, lacks_consent) on oauth2_authorizations to email_service_app;
-- To lock a row takes the right to change something of it.
grant select (state_hash, expires_at), update (expires_at), delete on oauth2_authorizations to email_service_janitor;
create policy oauth2_authorizations_janitor on oauth2_authorizations to email_service_janitor using (true) with check (true);

-- An account of a provider has no password and so no hash. As in V6, `not valid`: old rows have hashes and no tokens.
alter table email_credentials
    alter column algorithm drop not null,
    alter column password_hash drop not null,
    alter column salt drop not null,
    add column sealed_refresh_token bytea,
    add column refresh_token_key text,
    add column sealed_access_token bytea,
    add column access_token_key text,
    add column access_token_expires_at bigint,
    add column tokens_version integer not null default 0,
    add column refresh_lease_until bigint,
    add column refresh_failed_at bigint,
    add column refresh_failure varchar(20),
    add constraint email_credentials_hash_check check (num_nulls(algorithm, password_hash, salt) in (0, 3)) not valid,
    add constraint email_credentials_tokens_check check (
        num_nulls(sealed_refresh_token, refresh_token_key) in (0, 2)
        and num_nulls(sealed_access_token, access_token_key, access_token_expires_at) in (0, 3)
        and num_nulls(refresh_failed_at, refresh_failure) in (0, 2)
    ) not valid;
comment on column email_credentials.sealed_refresh_token is 'Sealed as sealed_password is. Null for accounts with a password.';
comment on column email_credentials.access_token_expires_at is 'When a new one is fetched: a little before the provider ends it. By this clock alone, for the workers'' may differ.';
comment on column email_credentials.tokens_version is 'Grows with each change of the tokens: what was fetched with older ones is not stored.';
comment on column email_credentials.refresh_lease_until is 'Until then the one who set it asks the provider, and the others wait. Also tells him from those before and after.';
comment on column email_credentials.refresh_failed_at is 'When the last refresh ended without tokens: those who waited for it take its result.';

-- Begins a sign-in. No row: `p_account_id` is no account of the caller. `address`: that account's address.
create function start_authorization(
    p_tenant_id uuid, p_user_id uuid, p_state_hash bytea, p_verifier_half bytea, p_provider text, p_redirect_uri text,
    p_account_id uuid, p_address_key text, p_lifetime bigint
)
returns table (expires_at bigint, address text, needs_consent boolean)
language plpgsql rows 1
as $$
declare
    v_now constant bigint := epoch_ms();
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    -- Each that comes clears away more than one that is gone, so there is nothing to be left.
    perform forget_authorizations(10);
    if p_account_id is not null then
        select a.email_address into address from email_accounts a
        where a.id = p_account_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled;
        if not found then
            return;
        end if;
    end if;
    expires_at := v_now + p_lifetime;
    needs_consent := p_account_id is not null or exists (
        select from oauth2_authorizations o
        where o.tenant_id = p_tenant_id and o.user_id = p_user_id and o.provider = p_provider and o.lacks_consent
            and o.expires_at > v_now
    );
    insert into oauth2_authorizations (
        state_hash, tenant_id, user_id, provider, redirect_uri, verifier_half, account_id, address_key, created_at, expires_at
    )
    values (
        p_state_hash, p_tenant_id, p_user_id, p_provider, p_redirect_uri, p_verifier_half, p_account_id, p_address_key,
        v_now, v_now + p_lifetime
    );
    return next;
end
$$;

-- Uses a state up: of two who come with it, one gets the row.
create function take_authorization(p_tenant_id uuid, p_user_id uuid, p_state_hash bytea)
returns table (provider text, redirect_uri text, verifier_half bytea, account_id uuid, address_key text)
language plpgsql rows 1
as $$
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    select o.provider, o.redirect_uri, o.verifier_half, o.account_id, o.address_key
    into provider, redirect_uri, verifier_half, account_id, address_key
    from oauth2_authorizations o
    where o.state_hash = p_state_hash and o.tenant_id = p_tenant_id and o.user_id = p_user_id
        and o.verifier_half is not null and o.expires_at > epoch_ms()
    for update;
    if found then
        update oauth2_authorizations o set verifier_half = null
        where o.state_hash = p_state_hash and o.tenant_id = p_tenant_id and o.user_id = p_user_id;
        return next;
    end if;
end
$$;

-- The provider gave no refresh token. The next sign-in with it asks for consent; the mark goes with the row.
create function note_lack_of_consent(p_tenant_id uuid, p_user_id uuid, p_state_hash bytea) returns void
language plpgsql
as $$
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    update oauth2_authorizations o set lacks_consent = true
    where o.state_hash = p_state_hash and o.tenant_id = p_tenant_id and o.user_id = p_user_id;
end
$$;

-- Goes past the policies: over all tenants.
create function forget_authorizations(p_limit integer) returns void
language sql volatile security definer
set search_path = ''
as $$
    delete from public.oauth2_authorizations o
    where o.state_hash in (
        select old.state_hash from public.oauth2_authorizations old
        where old.expires_at < (extract(epoch from clock_timestamp()) * 1000)::bigint
        order by old.expires_at
        limit p_limit
        for update skip locked
    )
$$;

-- Puts tokens into a credential, in the place of whatever could sign in before.
create function set_tokens(
    p_tenant_id uuid, p_user_id uuid, p_credential_id uuid, p_key text, p_sealed_refresh_token bytea,
    p_sealed_access_token bytea, p_access_token_life bigint
)
returns void
language sql volatile
as $$
    update email_credentials c
    set algorithm = null, password_hash = null, salt = null, sealed_password = null, password_key = null,
        sealed_refresh_token = p_sealed_refresh_token, refresh_token_key = p_key,
        sealed_access_token = p_sealed_access_token, access_token_key = p_key,
        access_token_expires_at = epoch_ms() + p_access_token_life,
        tokens_version = c.tokens_version + 1, refresh_lease_until = null, refresh_failed_at = null, refresh_failure = null,
        updated_at = greatest(epoch_ms(), c.updated_at + 1)
    where c.id = p_credential_id and c.tenant_id = p_tenant_id and c.user_id = p_user_id
$$;

-- An account of a provider, new: as insert_account, with tokens in the place of a password.
create function insert_connected_account(
    p_tenant_id uuid, p_user_id uuid, p_id uuid, p_provider text,
    p_account_name text, p_email_address text, p_address_key text, p_username text, p_most_accounts integer,
    p_hostname text, p_port integer, p_encryption text, p_smtp_hostname text, p_smtp_port integer, p_smtp_encryption text,
    p_credential_id uuid, p_key text, p_sealed_refresh_token bytea, p_sealed_access_token bytea, p_access_token_life bigint
)
returns setof email_accounts
language plpgsql rows 1
as $$
declare
    v_account email_accounts;
begin
    select * into v_account from insert_account(
        p_tenant_id, p_user_id, p_id, p_account_name, p_email_address, p_address_key, 'imap', p_hostname, p_port,
        p_encryption, p_username, true, 300, p_credential_id, null, null, null, p_most_accounts,
        null, null, null, p_smtp_hostname, p_smtp_port, p_smtp_encryption, null
    );
    if not found then
        return;
    end if;
    perform set_tokens(
        p_tenant_id, p_user_id, p_credential_id, p_key, p_sealed_refresh_token, p_sealed_access_token, p_access_token_life
    );
    return query
        update email_accounts a
        set auth_type = 'oauth2', provider = p_provider, state = 'new', next_sync_at = v_account.created_at
        where a.id = p_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id
        returning a.*;
end
$$;

-- An account gets new tokens, and stays the same. It keeps servers that are the provider's, `p_hosts`, and gets the
-- provider's in the place of others. No row: it is gone. Where the address is another one, nothing is changed, and
-- `matches` is false.
create function reconnect_account(
    p_tenant_id uuid, p_user_id uuid, p_id uuid, p_provider text, p_address_key text, p_username text, p_hosts text[],
    p_hostname text, p_port integer, p_encryption text, p_smtp_hostname text, p_smtp_port integer, p_smtp_encryption text,
    p_key text, p_sealed_refresh_token bytea, p_sealed_access_token bytea, p_access_token_life bigint
)
returns table (account email_accounts, matches boolean)
language plpgsql rows 1
as $$
declare
    v_now constant bigint := epoch_ms();
    v_new email_accounts;
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    select * into v_new from email_accounts a
    where a.id = p_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled
    for update;
    if not found then
        return;
    end if;
    -- A key that had to be made unique has more behind it: V5.
    matches := coalesce(v_new.address_key in (p_address_key, p_address_key || ' ' || p_id), false);
    if not matches then
        account := v_new;
        return next;
        return;
    end if;

    if v_new.auth_type <> 'oauth2' or v_new.provider <> p_provider then
        v_new.username := p_username;
    end if;
    if not v_new.hostname = any (p_hosts) then
        v_new.protocol := 'imap';
        v_new.hostname := p_hostname;
        v_new.port := p_port;
        v_new.encryption := p_encryption;
    end if;
    -- Of an account with a password, the outgoing server's may have been another.
    if v_new.auth_type <> 'oauth2' then
        v_new.smtp_username := null;
        update email_credentials c set sealed_smtp_password = null, smtp_password_key = null
        where c.id = v_new.credential_id and c.tenant_id = p_tenant_id and c.user_id = p_user_id;
        if v_new.smtp_hostname is null or not v_new.smtp_hostname = any (p_hosts) then
            v_new.smtp_hostname := p_smtp_hostname;
            v_new.smtp_port := p_smtp_port;
            v_new.smtp_encryption := p_smtp_encryption;
        end if;
    end if;
    perform set_tokens(
        p_tenant_id, p_user_id, v_new.credential_id, p_key, p_sealed_refresh_token, p_sealed_access_token,
        p_access_token_life
    );
    update email_accounts a
    set auth_type = 'oauth2', provider = p_provider, username = v_new.username, protocol = v_new.protocol,
        hostname = v_new.hostname, port = v_new.port, encryption = v_new.encryption,
        smtp_hostname = v_new.smtp_hostname, smtp_port = v_new.smtp_port, smtp_encryption = v_new.smtp_encryption,
        smtp_username = v_new.smtp_username,
        -- As a new password has it: V6, update_account.
        state = 'new', state_changed_at = case when a.state <> 'new' then v_now else a.state_changed_at end,
        failures = 0, next_sync_at = v_now, settings_version = a.settings_version + 1,
        last_error_code = null, last_error_message = null, last_error_service = null, last_error_at = null,
        updated_at = greatest(v_now, a.updated_at + 1)
    where a.id = p_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id
    returning a.* into v_new;
    account := v_new;
    return next;
end
$$;

-- As update_account; beside that, an account of a provider that gets a password is one of a password.
create function change_account(
    p_tenant_id uuid, p_user_id uuid, p_id uuid,
    p_account_name text, p_email_address text, p_address_key text, p_protocol text, p_hostname text, p_port integer,
    p_encryption text, p_username text, p_is_sync_enabled boolean, p_sync_interval integer,
    p_is_enabled boolean, p_algorithm text, p_password_hash text, p_salt text,
    p_key text, p_sealed_password bytea, p_sealed_smtp_password bytea, p_smtp text
)
returns setof email_accounts
language plpgsql rows 1
as $$
declare
    v_account email_accounts;
begin
    select * into v_account from update_account(
        p_tenant_id, p_user_id, p_id, p_account_name, p_email_address, p_address_key, p_protocol, p_hostname, p_port,
        p_encryption, p_username, p_is_sync_enabled, p_sync_interval, p_is_enabled, p_algorithm, p_password_hash, p_salt,
        p_key, p_sealed_password, p_sealed_smtp_password, p_smtp
    );
    if not found then
        return;
    end if;
    if p_password_hash is not null and v_account.auth_type = 'oauth2' then
        perform destroy_tokens(p_tenant_id, p_user_id, v_account.credential_id);
        update email_accounts a set auth_type = 'password', provider = null
        where a.id = p_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id
        returning a.* into v_account;
    end if;
    return next v_account;
end
$$;

-- A refresh that is on its way meanwhile finds another version and stores nothing.
create function destroy_tokens(p_tenant_id uuid, p_user_id uuid, p_credential_id uuid) returns void
language sql volatile
as $$
    update email_credentials c
    set sealed_refresh_token = null, refresh_token_key = null, sealed_access_token = null, access_token_key = null,
        access_token_expires_at = null, tokens_version = c.tokens_version + 1, refresh_lease_until = null,
        refresh_failed_at = null, refresh_failure = null
    where c.id = p_credential_id and c.tenant_id = p_tenant_id and c.user_id = p_user_id
$$;

-- Deleting an account forgets what could sign in to its mailbox.
create or replace function destroy_secrets(p_tenant_id uuid, p_user_id uuid, p_credential_id uuid) returns void
language sql volatile
as $$
    update email_credentials c
    set sealed_password = null, password_key = null, sealed_smtp_password = null, smtp_password_key = null
    where c.id = p_credential_id and c.tenant_id = p_tenant_id and c.user_id = p_user_id;
    select destroy_tokens(p_tenant_id, p_user_id, p_credential_id)
$$;

-- What a worker that needs an access token is to do, for the mail functions' role:
--   fresh    use `sealed`, an access token
--   claimed  ask the provider with `sealed`, a refresh token: the others wait until `lease_until`
--   wait     somebody else does: come again, with `now` as `p_since`
--   failed   somebody else did, after `p_since`, and `failure` came of it
--   missing  there are no tokens
-- `p_refused` is the version of an access token that a mail server did not take although its time had not ended.
create function claim_token(
    p_tenant_id uuid, p_user_id uuid, p_credential_id uuid, p_refused integer, p_since bigint, p_lease bigint
)
returns table (what text, version integer, sealed bytea, lease_until bigint, now bigint, failure text)
language plpgsql rows 1
as $$
declare
    v_refresh bytea;
    v_access bytea;
    v_access_ends bigint;
    v_failed_at bigint;
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    select c.sealed_refresh_token, c.sealed_access_token, c.access_token_expires_at, c.tokens_version,
           c.refresh_lease_until, c.refresh_failed_at, c.refresh_failure
    into v_refresh, v_access, v_access_ends, version, lease_until, v_failed_at, failure
    from email_credentials c
    where c.id = p_credential_id and c.tenant_id = p_tenant_id and c.user_id = p_user_id
    for no key update;
    -- Only now: the lock may have been waited for.
    now := epoch_ms();
    if v_refresh is null then
        what := 'missing';
    elsif v_access is not null and v_access_ends > now and version is distinct from p_refused then
        what := 'fresh';
        sealed := v_access;
    elsif v_failed_at >= p_since then
        what := 'failed';
    elsif lease_until > now then
        what := 'wait';
    else
        what := 'claimed';
        sealed := v_refresh;
        lease_until := now + p_lease;
        update email_credentials c set refresh_lease_until = lease_until
        where c.id = p_credential_id and c.tenant_id = p_tenant_id and c.user_id = p_user_id;
    end if;
    return next;
end
$$;

-- Stores what the provider gave, unless the tokens are others meanwhile; says whether it did. A null refresh token: the
-- old one stays good. Whose lease has ended may still store: what he has is newer than what is there.
create function store_tokens(
    p_tenant_id uuid, p_user_id uuid, p_credential_id uuid, p_version integer, p_key text,
    p_sealed_access_token bytea, p_access_token_life bigint, p_sealed_refresh_token bytea
)
returns boolean
language plpgsql
as $$
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    update email_credentials c
    set sealed_access_token = p_sealed_access_token, access_token_key = p_key,
        access_token_expires_at = epoch_ms() + p_access_token_life,
        sealed_refresh_token = coalesce(p_sealed_refresh_token, c.sealed_refresh_token),
        refresh_token_key = case when p_sealed_refresh_token is not null then p_key else c.refresh_token_key end,
        tokens_version = c.tokens_version + 1, refresh_lease_until = null, refresh_failed_at = null, refresh_failure = null
    where c.id = p_credential_id and c.tenant_id = p_tenant_id and c.user_id = p_user_id
        and c.tokens_version = p_version and c.sealed_refresh_token is not null;
    return found;
end
$$;

-- Ends a lease without tokens, and says why to those who wait.
create function fail_refresh(
    p_tenant_id uuid, p_user_id uuid, p_credential_id uuid, p_version integer, p_lease_until bigint, p_failure text
)
returns void
language plpgsql
as $$
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    update email_credentials c
    set refresh_lease_until = null, refresh_failed_at = epoch_ms(), refresh_failure = p_failure
    where c.id = p_credential_id and c.tenant_id = p_tenant_id and c.user_id = p_user_id
        and c.tokens_version = p_version and c.refresh_lease_until = p_lease_until;
end
$$;

-- As V6 has them for passwords; those stay for the functions of the release before.
create function reseal_all(
    p_tenant_id uuid, p_user_id uuid, p_credential_id uuid, p_key text,
    p_old_password bytea, p_new_password bytea, p_old_smtp_password bytea, p_new_smtp_password bytea,
    p_old_refresh_token bytea, p_new_refresh_token bytea, p_old_access_token bytea, p_new_access_token bytea
)
returns boolean
language plpgsql
as $$
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    update email_credentials c
    set sealed_password = p_new_password, password_key = case when p_new_password is not null then p_key end,
        sealed_smtp_password = p_new_smtp_password,
        smtp_password_key = case when p_new_smtp_password is not null then p_key end,
        sealed_refresh_token = p_new_refresh_token,
        refresh_token_key = case when p_new_refresh_token is not null then p_key end,
        sealed_access_token = p_new_access_token,
        access_token_key = case when p_new_access_token is not null then p_key end
    where c.id = p_credential_id and c.tenant_id = p_tenant_id and c.user_id = p_user_id
        and c.sealed_password is not distinct from p_old_password
        and c.sealed_smtp_password is not distinct from p_old_smtp_password
        and c.sealed_refresh_token is not distinct from p_old_refresh_token
        and c.sealed_access_token is not distinct from p_old_access_token;
    return found;
end
$$;

create function find_all_sealed(p_tenant_id uuid, p_user_id uuid, p_credential_id uuid)
returns table (sealed_password bytea, sealed_smtp_password bytea, sealed_refresh_token bytea, sealed_access_token bytea)
language plpgsql rows 1
as $$
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    return query
        select c.sealed_password, c.sealed_smtp_password, c.sealed_refresh_token, c.sealed_access_token
        from email_credentials c
        where c.id = p_credential_id and c.tenant_id = p_tenant_id and c.user_id = p_user_id;
end
$$;

-- Column by column, as in V6.
grant select (refresh_token_key, access_token_key) on email_credentials to email_service_probe;
grant select (tokens_version) on email_credentials to email_service_app;
grant update (
    sealed_refresh_token, refresh_token_key, sealed_access_token, access_token_key, access_token_expires_at,
    tokens_version, refresh_lease_until, refresh_failed_at, refresh_failure
) on email_credentials to email_service_app;
grant update (auth_type, provider) on email_accounts to email_service_app;
grant select (
    sealed_refresh_token, refresh_token_key, sealed_access_token, access_token_key, access_token_expires_at,
    tokens_version, refresh_lease_until, refresh_failed_at, refresh_failure
) on email_credentials to email_service_mail;
grant update (
    sealed_refresh_token, refresh_token_key, sealed_access_token, access_token_key, access_token_expires_at,
    tokens_version, refresh_lease_until, refresh_failed_at, refresh_failure
) on email_credentials to email_service_mail;

reset role;
-- As in V2 and V5.
grant email_service_janitor to current_user;
grant create on schema public to email_service_janitor;
alter function forget_authorizations(integer) owner to email_service_janitor;
revoke execute on function forget_authorizations(integer) from public;
grant execute on function forget_authorizations(integer) to email_service_app;
revoke create on schema public from email_service_janitor;
revoke email_service_janitor from current_user;

-- Who replaces a function must be its owner.
grant email_service_probe to current_user;
grant create on schema public to email_service_probe;
set local role email_service_probe;
create or replace function secrets_to_reseal(p_key text, p_after uuid, p_limit integer)
returns table (id uuid, tenant_id uuid, user_id uuid, account_id uuid)
language sql volatile security definer
set search_path = ''
as $$
    select c.id, c.tenant_id, c.user_id, a.id
    from public.email_credentials c join public.email_accounts a on a.credential_id = c.id
    where c.id > p_after
        and (
            c.password_key <> p_key or c.smtp_password_key <> p_key
            or c.refresh_token_key <> p_key or c.access_token_key <> p_key
        )
    order by c.id
    limit p_limit
$$;

create or replace function count_secrets_to_reseal(p_key text) returns bigint
language sql volatile security definer
set search_path = ''
as $$
    select count(*) from public.email_credentials c
    where c.password_key <> p_key or c.smtp_password_key <> p_key
        or c.refresh_token_key <> p_key or c.access_token_key <> p_key
$$;
reset role;
revoke create on schema public from email_service_probe;
revoke email_service_probe from current_user;
