-- The two tables, and the fence around them.
set local lock_timeout = '5s';
set local role email_service_owner;

create table email_credentials (
    id            uuid   primary key,
    tenant_id     uuid   not null,
    user_id       uuid   not null,
    -- The scheme stands beside the hash so that a later one can live next to it.
    algorithm     text   not null constraint email_credentials_algorithm_check check (algorithm = 'sha512'),
    password_hash text   not null constraint email_credentials_password_hash_check check (password_hash ~ '^[0-9a-f]{128}$'),
    salt          text   not null constraint email_credentials_salt_check check (salt ~ '^[0-9a-f]{64}$'),
    created_at    bigint not null,
    updated_at    bigint not null,
    -- What an account's foreign key points at: policies do not guard foreign keys, so the owner is part of it.
    constraint email_credentials_owner_key unique (id, tenant_id, user_id)
);

comment on table email_credentials is 'Mailbox passwords: SHA-512 over password bytes followed by a random 32-byte salt, both as lower-case hex.';

create table email_accounts (
    id              uuid         primary key,
    tenant_id       uuid         not null,
    user_id         uuid         not null,
    account_name    varchar(255) not null constraint email_accounts_account_name_check check (account_name <> ''),
    email_address   varchar(255) not null constraint email_accounts_email_address_check check (char_length(email_address) between 3 and 254),
    protocol        varchar(4)   not null constraint email_accounts_protocol_check check (protocol in ('imap', 'pop3')),
    hostname        varchar(255) not null constraint email_accounts_hostname_check check (char_length(hostname) between 1 and 253),
    port            integer      not null constraint email_accounts_port_check check (port between 1 and 65535),
    encryption      varchar(8)   not null constraint email_accounts_encryption_check check (encryption in ('tls', 'starttls', 'none')),
    username        varchar(255) not null constraint email_accounts_username_check check (username <> ''),
    credential_id   uuid         not null constraint email_accounts_credential_id_key unique,
    is_sync_enabled boolean      not null default true,
    sync_interval   integer      not null default 300 constraint email_accounts_sync_interval_check check (sync_interval between 60 and 3600),
    last_sync_at    bigint,
    is_syncing      boolean      not null default false,
    is_enabled      boolean      not null default true,
    created_at      bigint       not null,
    updated_at      bigint       not null constraint email_accounts_updated_at_check check (updated_at >= created_at),
    constraint email_accounts_credential_fkey foreign key (credential_id, tenant_id, user_id)
        references email_credentials (id, tenant_id, user_id)
);

comment on table email_accounts is 'The mailboxes of a tenant''s users. A deleted one stays, with is_enabled = false.';
comment on column email_accounts.sync_interval is 'Seconds between two synchronisations.';
comment on column email_accounts.last_sync_at is 'Milliseconds since the Unix epoch, UTC, like created_at and updated_at; null until the first synchronisation.';

-- One enabled account per address and user. Tenant and user are part of it, so that a refusal tells
-- nothing about others.
create unique index email_accounts_address_key on email_accounts (tenant_id, user_id, lower(email_address)) where is_enabled;
-- The list, in its order, at any size of the table.
create index email_accounts_list_idx on email_accounts (tenant_id, user_id, created_at desc, id desc) where is_enabled;
-- For support and reports over disabled accounts, too.
create index email_accounts_user_tenant_idx on email_accounts (user_id, tenant_id);
create index email_accounts_address_tenant_idx on email_accounts (email_address, tenant_id);
create index email_accounts_tenant_enabled_idx on email_accounts (tenant_id, is_enabled);

-- Row-level security: whoever asks sees and writes only rows of the transaction's tenant and user.
-- Forced, so that the owner is no exception. A setting that was local to an earlier transaction reads as
-- '' and not as null, hence nullif; no context compares with null, so it shows no row. In a sub-select the
-- planner evaluates it once per statement.
alter table email_credentials enable row level security;
alter table email_credentials force row level security;
alter table email_accounts enable row level security;
alter table email_accounts force row level security;

create policy email_credentials_scope on email_credentials
    using (
        tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid)
        and user_id = (select nullif(current_setting('app.user_id', true), '')::uuid)
    )
    with check (
        tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid)
        and user_id = (select nullif(current_setting('app.user_id', true), '')::uuid)
    );

create policy email_accounts_scope on email_accounts
    using (
        tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid)
        and user_id = (select nullif(current_setting('app.user_id', true), '')::uuid)
    )
    with check (
        tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid)
        and user_id = (select nullif(current_setting('app.user_id', true), '')::uuid)
    );

-- No delete: accounts are disabled. No update of ids: a row never changes hands.
grant select, insert on email_credentials, email_accounts to email_service_app;
grant update (algorithm, password_hash, salt, updated_at) on email_credentials to email_service_app;
grant update (
    account_name, email_address, protocol, hostname, port, encryption, username,
    is_sync_enabled, sync_interval, last_sync_at, is_syncing, is_enabled, updated_at
) on email_accounts to email_service_app;

-- The difference between 403 and 404: whose account is it? This one function sees past the policies, and
-- gives ids only. It belongs to a role of its own, because a function of the tables' owner would be fenced
-- in as well (the policies are forced) and managed PostgreSQL does not grant BYPASSRLS.
grant select (id, tenant_id, user_id, is_enabled) on email_accounts to email_service_probe;
create policy email_accounts_probe on email_accounts for select to email_service_probe using (true);

create function account_owner(account_id uuid)
returns table (tenant_id uuid, user_id uuid)
language sql stable strict security definer rows 1
set search_path = ''
as $$
    select a.tenant_id, a.user_id from public.email_accounts a where a.id = account_id and a.is_enabled
$$;

revoke execute on function account_owner(uuid) from public;
grant execute on function account_owner(uuid) to email_service_app;

reset role;
-- To hand the function over takes membership in the new owner, and that role's right to create. Both end here:
-- a member would inherit the policy that shows every row.
grant email_service_probe to current_user;
grant create on schema public to email_service_probe;
alter function account_owner(uuid) owner to email_service_probe;
revoke create on schema public from email_service_probe;
revoke email_service_probe from current_user;
