-- Accounts that can sign in: sealed secrets, outgoing settings, how an account stands with its server; and the role that
-- may read what is sealed.
set local lock_timeout = '5s';

-- What mail functions log in as: the same fence as email_service_app, and beside it the sealed secrets of the scope that
-- it has set. Its password is set from outside, by `migrate`.
do $$
begin
    if not exists (select from pg_roles where rolname = 'email_service_mail') then
        create role email_service_mail login noinherit nocreatedb nocreaterole;
    end if;
exception when duplicate_object or unique_violation then
    null; -- Another database of this server was migrated at the same moment.
end
$$;
grant usage on schema public to email_service_mail;
alter role email_service_mail set statement_timeout = '4s';
alter role email_service_mail set lock_timeout = '3s';
alter role email_service_mail set idle_in_transaction_session_timeout = '5s';
grant select on schema_migrations to email_service_mail;

set local role email_service_owner;

-- Constants as defaults: the tables are not rewritten. `not valid`: new rows only, for the old ones have only nulls and
-- defaults here, and to look would hold writers up.
alter table email_credentials
    add column sealed_password bytea,
    add column password_key text,
    add column sealed_smtp_password bytea,
    add column smtp_password_key text,
    add constraint email_credentials_keys_check check (
        (sealed_password is null) = (password_key is null)
        and (sealed_smtp_password is null) = (smtp_password_key is null)
    ) not valid;
comment on column email_credentials.sealed_password is
    'The password, sealed with a public key and bound to tenant, user, account and purpose: shared/src/sealing.rs. Null for rows from before, and once the account is deleted.';
comment on column email_credentials.password_key is 'The id of the key that sealed_password was sealed with.';

alter table email_accounts
    add column smtp_hostname    varchar(255),
    add column smtp_port        integer,
    add column smtp_encryption  varchar(8),
    add column smtp_username    varchar(255),
    add column auth_type        varchar(8)  not null default 'password',
    add column provider         varchar(64),
    -- What rows from before are in, and those that functions of the release before still insert.
    add column state            varchar(20) not null default 'credentialsMissing',
    add column state_changed_at bigint,
    add column failures         smallint    not null default 0,
    add column next_sync_at     bigint,
    add column tried_at         bigint,
    add column settings_version integer     not null default 1,
    add column last_error_code    varchar(20),
    add column last_error_message varchar(500),
    add column last_error_service varchar(8),
    add column last_error_at      bigint,
    add constraint email_accounts_smtp_check check (
        char_length(smtp_hostname) between 1 and 253
        and smtp_hostname !~ '[ @/_\u0001-\u001f\u007f-\u009f]'
        and smtp_port between 1 and 65535
        and smtp_encryption in ('tls', 'starttls', 'none')
        and smtp_username <> ''
        and smtp_username !~ '[\u0001-\u001f\u007f-\u009f]'
    ) not valid,
    add constraint email_accounts_auth_type_check check (auth_type in ('password', 'oauth2')) not valid,
    add constraint email_accounts_state_check check (
        state in ('new', 'connected', 'authenticationError', 'connectError', 'credentialsMissing')
    ) not valid,
    add constraint email_accounts_last_error_check check (
        num_nulls(last_error_code, last_error_message, last_error_service, last_error_at) in (0, 4)
        and last_error_code in (
            'authentication', 'unreachable', 'tls', 'protocol', 'unavailable', 'mailboxMissing', 'consentRevoked'
        )
        and last_error_service in ('imap', 'pop3', 'smtp', 'oauth2')
    ) not valid;
comment on column email_accounts.state is 'How the account stands with its server; its moves are in shared/src/account/state.rs.';
comment on column email_accounts.state_changed_at is 'Milliseconds since the Unix epoch, like the other times; null stands for updated_at.';
comment on column email_accounts.failures is 'How often in a row a try failed that led to this state.';
comment on column email_accounts.tried_at is 'When somebody last asked for a try of what is stored.';
comment on column email_accounts.settings_version is 'Grows with each change that matters to signing in. What came of a try is noted only if it is the same as at its beginning.';

create function list_accounts(p_tenant_id uuid, p_user_id uuid, p_limit bigint, p_offset bigint, p_state text)
returns table (total bigint, account email_accounts)
language plpgsql
as $$
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    -- The left join keeps the total when the page is empty.
    return query
        select counted.total, page.account
        from (
            select count(*) as total from email_accounts a
            where a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled
                and (p_state is null or a.state = p_state)
        ) counted
        left join (
            select a as account from email_accounts a
            where a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled
                and (p_state is null or a.state = p_state)
            order by a.created_at desc, a.id desc
            limit p_limit offset p_offset
        ) page on true;
end
$$;

-- Gives no row when the user has `p_most_accounts` enabled ones, unless one of them has this address: that is the
-- unique index's to refuse. Without a sealed password, as from functions of the release before, nothing can sign in.
create function insert_account(
    p_tenant_id uuid, p_user_id uuid, p_id uuid,
    p_account_name text, p_email_address text, p_address_key text, p_protocol text, p_hostname text, p_port integer,
    p_encryption text, p_username text, p_is_sync_enabled boolean, p_sync_interval integer,
    p_credential_id uuid, p_algorithm text, p_password_hash text, p_salt text, p_most_accounts integer,
    p_key text, p_sealed_password bytea, p_sealed_smtp_password bytea,
    p_smtp_hostname text, p_smtp_port integer, p_smtp_encryption text, p_smtp_username text
)
returns setof email_accounts
language plpgsql rows 1
as $$
declare
    v_now constant bigint := epoch_ms();
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    perform lock_addresses(p_tenant_id, p_user_id);
    if p_most_accounts <= (
        select count(*) from (
            select from email_accounts a
            where a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled
            limit p_most_accounts
        ) counted
    ) and not exists (
        select from email_accounts a
        where a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.address_key = p_address_key and a.is_enabled
    ) then
        return;
    end if;
    insert into email_credentials (
        id, tenant_id, user_id, algorithm, password_hash, salt, created_at, updated_at,
        sealed_password, password_key, sealed_smtp_password, smtp_password_key
    )
    values (
        p_credential_id, p_tenant_id, p_user_id, p_algorithm, p_password_hash, p_salt, v_now, v_now,
        p_sealed_password, case when p_sealed_password is not null then p_key end,
        p_sealed_smtp_password, case when p_sealed_smtp_password is not null then p_key end
    );
    return query
        insert into email_accounts as a (
            id, tenant_id, user_id, account_name, email_address, address_key, protocol, hostname, port, encryption,
            username, credential_id, is_sync_enabled, sync_interval, created_at, updated_at,
            smtp_hostname, smtp_port, smtp_encryption, smtp_username, state, state_changed_at, next_sync_at
        )
        values (
            p_id, p_tenant_id, p_user_id, p_account_name, p_email_address, p_address_key, p_protocol, p_hostname, p_port,
            p_encryption, p_username, p_credential_id, p_is_sync_enabled, p_sync_interval, v_now, v_now,
            p_smtp_hostname, p_smtp_port, p_smtp_encryption, p_smtp_username,
            case when p_sealed_password is null then 'credentialsMissing' else 'new' end, v_now,
            case when p_sealed_password is not null then v_now end
        )
        returning a.*;
end
$$;

-- Null keeps the old value. Nothing is written, and updated_at stays, when nothing differs. `p_smtp` has the outgoing
-- settings that change, as a JSON object; a null in it takes one away, also "password". A sealed value is written and
-- never read: the functions' role may not.
create function update_account(
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
    v_smtp constant jsonb := coalesce(p_smtp::jsonb, '{}');
    v_now constant bigint := epoch_ms();
    v_old email_accounts;
    v_new email_accounts;
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    if p_email_address is not null then
        perform lock_addresses(p_tenant_id, p_user_id);
    end if;
    select * into v_old from email_accounts a
    where a.id = p_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled
    for update;
    if not found then
        return;
    end if;

    v_new := v_old;
    v_new.account_name := coalesce(p_account_name, v_old.account_name);
    -- The same address again keeps its key, also one that had to be made unique.
    if p_email_address <> v_old.email_address then
        v_new.email_address := p_email_address;
        v_new.address_key := p_address_key;
    end if;
    v_new.protocol := coalesce(p_protocol, v_old.protocol);
    v_new.hostname := coalesce(p_hostname, v_old.hostname);
    v_new.port := coalesce(p_port, v_old.port);
    v_new.encryption := coalesce(p_encryption, v_old.encryption);
    v_new.username := coalesce(p_username, v_old.username);
    v_new.is_sync_enabled := coalesce(p_is_sync_enabled, v_old.is_sync_enabled);
    v_new.sync_interval := coalesce(p_sync_interval, v_old.sync_interval);
    v_new.is_enabled := coalesce(p_is_enabled, v_old.is_enabled);
    if v_smtp ? 'hostname' then v_new.smtp_hostname := v_smtp ->> 'hostname'; end if;
    if v_smtp ? 'port' then v_new.smtp_port := (v_smtp ->> 'port')::integer; end if;
    if v_smtp ? 'encryption' then v_new.smtp_encryption := v_smtp ->> 'encryption'; end if;
    if v_smtp ? 'username' then v_new.smtp_username := v_smtp ->> 'username'; end if;

    -- As shared/src/account/state.rs has it; a test compares the two.
    if p_password_hash is not null and p_sealed_password is null then
        v_new.state := 'credentialsMissing'; -- From functions of the release before.
    elsif p_sealed_password is not null then
        v_new.state := 'new';
    elsif v_old.state <> 'credentialsMissing' and (
        (v_new.protocol, v_new.hostname, v_new.port, v_new.encryption, v_new.username)
            is distinct from (v_old.protocol, v_old.hostname, v_old.port, v_old.encryption, v_old.username)
        or (v_new.smtp_hostname, v_new.smtp_port, v_new.smtp_encryption, v_new.smtp_username)
            is distinct from (v_old.smtp_hostname, v_old.smtp_port, v_old.smtp_encryption, v_old.smtp_username)
        or v_smtp ? 'password'
    ) then
        v_new.state := 'new';
        -- Also from `new` to `new`: a try that began before must not be taken for one of these settings.
        v_new.settings_version := v_old.settings_version + 1;
    end if;
    if p_password_hash is not null then
        v_new.settings_version := v_old.settings_version + 1;
    end if;
    if v_new.settings_version <> v_old.settings_version then
        v_new.state_changed_at := case when v_new.state <> v_old.state then v_now else v_old.state_changed_at end;
        v_new.failures := 0;
        v_new.next_sync_at := case when v_new.state = 'new' then v_now end;
        v_new.last_error_code := null;
        v_new.last_error_message := null;
        v_new.last_error_service := null;
        v_new.last_error_at := null;
    end if;

    if v_new is distinct from v_old then
        -- Strictly growing, also within one millisecond and after the clock was set back.
        v_new.updated_at := greatest(v_now, v_old.updated_at + 1);
        update email_accounts a
        set account_name = v_new.account_name, email_address = v_new.email_address, address_key = v_new.address_key,
            protocol = v_new.protocol, hostname = v_new.hostname, port = v_new.port, encryption = v_new.encryption,
            username = v_new.username, is_sync_enabled = v_new.is_sync_enabled, sync_interval = v_new.sync_interval,
            is_enabled = v_new.is_enabled, updated_at = v_new.updated_at,
            smtp_hostname = v_new.smtp_hostname, smtp_port = v_new.smtp_port, smtp_encryption = v_new.smtp_encryption,
            smtp_username = v_new.smtp_username, state = v_new.state, state_changed_at = v_new.state_changed_at,
            failures = v_new.failures, next_sync_at = v_new.next_sync_at, settings_version = v_new.settings_version,
            last_error_code = v_new.last_error_code, last_error_message = v_new.last_error_message,
            last_error_service = v_new.last_error_service, last_error_at = v_new.last_error_at
        where a.id = p_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id;
    end if;
    if p_password_hash is not null then
        update email_credentials c
        set algorithm = p_algorithm, password_hash = p_password_hash, salt = p_salt, sealed_password = p_sealed_password,
            password_key = case when p_sealed_password is not null then p_key end, updated_at = v_new.updated_at
        where c.id = v_old.credential_id and c.tenant_id = p_tenant_id and c.user_id = p_user_id;
    end if;
    if v_smtp ? 'password' then
        update email_credentials c
        set sealed_smtp_password = p_sealed_smtp_password,
            smtp_password_key = case when p_sealed_smtp_password is not null then p_key end,
            updated_at = v_new.updated_at
        where c.id = v_old.credential_id and c.tenant_id = p_tenant_id and c.user_id = p_user_id;
    end if;
    if not v_new.is_enabled then
        perform destroy_secrets(p_tenant_id, p_user_id, v_old.credential_id);
    end if;
    return next v_new;
end
$$;

-- Deleting an account forgets what could sign in to its mailbox.
create function destroy_secrets(p_tenant_id uuid, p_user_id uuid, p_credential_id uuid) returns void
language sql volatile
as $$
    update email_credentials c
    set sealed_password = null, password_key = null, sealed_smtp_password = null, smtp_password_key = null
    where c.id = p_credential_id and c.tenant_id = p_tenant_id and c.user_id = p_user_id
$$;

create or replace function disable_account(p_tenant_id uuid, p_user_id uuid, p_id uuid)
returns setof email_accounts
language plpgsql rows 1
as $$
declare
    v_account email_accounts;
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    update email_accounts a
    set is_enabled = false, updated_at = greatest(epoch_ms(), a.updated_at + 1)
    where a.id = p_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled
    returning a.* into v_account;
    if found then
        perform destroy_secrets(p_tenant_id, p_user_id, v_account.credential_id);
        return next v_account;
    end if;
end
$$;

-- The functions of the release before go on calling these until the last of them is replaced. No cap, for they could not
-- tell why; and their passwords are hashed and not sealed. The first migration of a later release drops the two.
create or replace function insert_account(
    p_tenant_id uuid, p_user_id uuid, p_id uuid,
    p_account_name text, p_email_address text, p_protocol text, p_hostname text, p_port integer,
    p_encryption text, p_username text, p_is_sync_enabled boolean, p_sync_interval integer,
    p_credential_id uuid, p_algorithm text, p_password_hash text, p_salt text
)
returns setof email_accounts
language plpgsql rows 1
as $$
begin
    return query select * from insert_account(
        p_tenant_id, p_user_id, p_id, p_account_name, p_email_address, rough_address_key(p_email_address), p_protocol,
        p_hostname, p_port, p_encryption, p_username, p_is_sync_enabled, p_sync_interval, p_credential_id, p_algorithm,
        p_password_hash, p_salt, null, null, null, null, null, null, null, null
    );
end
$$;

create or replace function update_account(
    p_tenant_id uuid, p_user_id uuid, p_id uuid,
    p_account_name text, p_email_address text, p_protocol text, p_hostname text, p_port integer,
    p_encryption text, p_username text, p_is_sync_enabled boolean, p_sync_interval integer,
    p_is_enabled boolean, p_algorithm text, p_password_hash text, p_salt text
)
returns setof email_accounts
language plpgsql rows 1
as $$
begin
    return query select * from update_account(
        p_tenant_id, p_user_id, p_id, p_account_name, p_email_address, rough_address_key(p_email_address), p_protocol,
        p_hostname, p_port, p_encryption, p_username, p_is_sync_enabled, p_sync_interval, p_is_enabled, p_algorithm,
        p_password_hash, p_salt, null, null, null, null
    );
end
$$;

-- The account with what it takes to sign in, for the mail functions' role. A try of what is stored is noted; where the
-- server has refused this login, `wait` says how many milliseconds must pass before the next.
create function begin_try(p_tenant_id uuid, p_user_id uuid, p_id uuid, p_overrides boolean)
returns table (account email_accounts, sealed_password bytea, sealed_smtp_password bytea, wait bigint)
language plpgsql rows 1
as $$
declare
    v_now constant bigint := epoch_ms();
    v_account email_accounts;
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    select * into v_account from email_accounts a
    where a.id = p_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled
    for no key update;
    if not found then
        return;
    end if;
    wait := case
        when p_overrides or v_account.state <> 'authenticationError' then 0
        else greatest(0, coalesce(v_account.tried_at, 0) + 60000 - v_now)
    end;
    if wait = 0 and not p_overrides then
        update email_accounts a set tried_at = v_now
        where a.id = p_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id;
    end if;
    account := v_account;
    select c.sealed_password, c.sealed_smtp_password into sealed_password, sealed_smtp_password
    from email_credentials c
    where c.id = v_account.credential_id and c.tenant_id = p_tenant_id and c.user_id = p_user_id;
    return next;
end
$$;

-- What came of a try: the account's new standing. Of settings that were changed meanwhile it says nothing. Who can sign
-- in and could not before has a synchronisation due; else the one that is planned stays.
create function record_try(
    p_tenant_id uuid, p_user_id uuid, p_id uuid, p_settings_version integer, p_state text, p_failures integer,
    p_pause bigint, p_code text, p_message text, p_service text
)
returns void
language plpgsql
as $$
declare
    v_now constant bigint := epoch_ms();
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    update email_accounts a
    set state = p_state, failures = p_failures,
        state_changed_at = case when a.state <> p_state then v_now else a.state_changed_at end,
        next_sync_at = case
            when p_code is not null then v_now + p_pause
            when a.state <> 'connected' then v_now
            else a.next_sync_at
        end,
        last_error_code = p_code, last_error_message = p_message, last_error_service = p_service,
        last_error_at = case when p_code is not null then v_now end
    where a.id = p_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled
        and a.settings_version = p_settings_version;
end
$$;

-- Writes what was sealed anew, unless it was replaced or destroyed meanwhile.
create function reseal(
    p_tenant_id uuid, p_user_id uuid, p_credential_id uuid, p_key text,
    p_old_password bytea, p_new_password bytea, p_old_smtp_password bytea, p_new_smtp_password bytea
)
returns boolean
language plpgsql
as $$
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    update email_credentials c
    set sealed_password = p_new_password, password_key = case when p_new_password is not null then p_key end,
        sealed_smtp_password = p_new_smtp_password,
        smtp_password_key = case when p_new_smtp_password is not null then p_key end
    where c.id = p_credential_id and c.tenant_id = p_tenant_id and c.user_id = p_user_id
        and c.sealed_password is not distinct from p_old_password
        and c.sealed_smtp_password is not distinct from p_old_smtp_password;
    return found;
end
$$;

create function find_sealed(p_tenant_id uuid, p_user_id uuid, p_credential_id uuid)
returns table (sealed_password bytea, sealed_smtp_password bytea)
language plpgsql rows 1
as $$
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    return query
        select c.sealed_password, c.sealed_smtp_password from email_credentials c
        where c.id = p_credential_id and c.tenant_id = p_tenant_id and c.user_id = p_user_id;
end
$$;

-- The secrets that are not sealed with the key `p_key`, in the order of their ids: whose they are, and nothing of them.
-- Goes past the policies, for a rotation is of all tenants.
grant select (id, tenant_id, user_id, password_key, smtp_password_key) on email_credentials to email_service_probe;
grant select (credential_id) on email_accounts to email_service_probe;
create policy email_credentials_probe on email_credentials for select to email_service_probe using (true);

create function secrets_to_reseal(p_key text, p_after uuid, p_limit integer)
returns table (id uuid, tenant_id uuid, user_id uuid, account_id uuid)
language sql volatile security definer
set search_path = ''
as $$
    select c.id, c.tenant_id, c.user_id, a.id
    from public.email_credentials c join public.email_accounts a on a.credential_id = c.id
    where c.id > p_after and (c.password_key <> p_key or c.smtp_password_key <> p_key)
    order by c.id
    limit p_limit
$$;

create function count_secrets_to_reseal(p_key text) returns bigint
language sql volatile security definer
set search_path = ''
as $$
    select count(*) from public.email_credentials c where c.password_key <> p_key or c.smtp_password_key <> p_key
$$;

-- Column by column: the endpoint functions write sealed secrets and read none; the mail functions read them, change
-- nothing of what a user has set, and never see a hash.
grant insert (sealed_password, password_key, sealed_smtp_password, smtp_password_key) on email_credentials to email_service_app;
grant update (sealed_password, password_key, sealed_smtp_password, smtp_password_key) on email_credentials to email_service_app;
grant insert (smtp_hostname, smtp_port, smtp_encryption, smtp_username, state, state_changed_at, next_sync_at)
    on email_accounts to email_service_app;
grant update (
    smtp_hostname, smtp_port, smtp_encryption, smtp_username, state, state_changed_at, failures, next_sync_at,
    settings_version, last_error_code, last_error_message, last_error_service, last_error_at
) on email_accounts to email_service_app;

grant select (
    id, tenant_id, user_id, sealed_password, password_key, sealed_smtp_password, smtp_password_key
) on email_credentials to email_service_mail;
grant update (sealed_password, password_key, sealed_smtp_password, smtp_password_key) on email_credentials to email_service_mail;
grant select on email_accounts to email_service_mail;
grant update (
    state, state_changed_at, failures, next_sync_at, tried_at, last_error_code, last_error_message, last_error_service,
    last_error_at
) on email_accounts to email_service_mail;

reset role;
-- As in V2 and V5.
grant email_service_probe to current_user;
grant create on schema public to email_service_probe;
alter function secrets_to_reseal(text, uuid, integer) owner to email_service_probe;
alter function count_secrets_to_reseal(text) owner to email_service_probe;
revoke execute on function secrets_to_reseal(text, uuid, integer), count_secrets_to_reseal(text) from public;
grant execute on function secrets_to_reseal(text, uuid, integer), count_secrets_to_reseal(text) to email_service_mail;
grant execute on function account_owner(uuid) to email_service_mail;
revoke create on schema public from email_service_probe;
revoke email_service_probe from current_user;
