-- When two addresses are one is decided by the service (shared/src/address.rs) and no longer by the
-- database's locale; addresses change under a lock; roles keep the rights that they use; disabled accounts can be
-- purged.
--
-- Nothing here reads the whole table. What does, the indexes and the keys of rows that are there already, is done by
-- `migrate` after this, without holding writers up: functions/system/migrate/src/online.rs.
set local lock_timeout = '5s';

-- Owns the functions that see past the policies in order to change something: keys, and what is purged. Nobody logs
-- in as it, and nobody is a member.
do $$
begin
    if not exists (select from pg_roles where rolname = 'email_service_janitor') then
        create role email_service_janitor nologin;
    end if;
exception when duplicate_object or unique_violation then
    null; -- Another database of this server was migrated at the same moment.
end
$$;
grant usage on schema public to email_service_janitor;

set local role email_service_owner;

-- Null only in rows older than this migration, until `migrate` has filled them. A later release makes it `not null`.
-- Compared byte by byte, so that a new version of the system's locales cannot spoil the index.
alter table email_accounts add column address_key text collate "C";
comment on column email_accounts.address_key is
    'What decides whether two addresses are one: NFC and case folding of the local part, A-label of the domain. Of accounts that became one address only with this rule, one has the key, the others the key, a space and their id.';

-- What validation refuses. Not valid: new rows only, for no row that validation let in breaks them, and to look would
-- hold writers up.
alter table email_accounts
    add constraint email_accounts_address_key_check
        check (address_key ~ '^.+@[^@]+\.[^@]+$' and char_length(address_key) <= 512) not valid,
    add constraint email_accounts_control_check
        check (account_name || email_address || hostname || username !~ '[\u0001-\u001f\u007f-\u009f]') not valid,
    add constraint email_accounts_account_name_trim_check
        check (account_name = btrim(account_name)) not valid,
    add constraint email_accounts_email_address_form_check
        check (email_address ~ '^.{1,64}@.{3,}$') not valid,
    add constraint email_accounts_hostname_form_check
        check (hostname !~ '[ @/_]') not valid;

-- One user's addresses change one after another. Two transactions that each wait for the other's entry in the unique
-- index would be a deadlock; counting accounts would race. Taken before any row's lock. Two users whose hashes are
-- equal wait for each other and no more.
create function lock_addresses(p_tenant_id uuid, p_user_id uuid) returns void
language sql volatile
as $$ select pg_advisory_xact_lock(uuid_hash_extended(p_user_id, uuid_hash_extended(p_tenant_id, 0))) $$;

-- The key that SQL can give, for functions of the release before: exact for ASCII; the next run of `migrate` corrects the
-- others. V6 has the functions that insert and update. The first migration of a later release drops this one, and those
-- that call it.
create function rough_address_key(p_email_address text) returns text
language sql immutable strict
as $$ select lower(normalize(p_email_address, nfc)) $$;

-- Each grants what the functions do, and no more. What an update has to find a credential by may be read; its hash and
-- salt may not.
revoke all on email_credentials, email_accounts from email_service_app;
grant select (id, tenant_id, user_id, updated_at) on email_credentials to email_service_app;
grant insert (id, tenant_id, user_id, algorithm, password_hash, salt, created_at, updated_at) on email_credentials to email_service_app;
grant update (algorithm, password_hash, salt, updated_at) on email_credentials to email_service_app;
grant select on email_accounts to email_service_app;
grant insert (
    id, tenant_id, user_id, account_name, email_address, address_key, protocol, hostname, port, encryption, username,
    credential_id, is_sync_enabled, sync_interval, created_at, updated_at
) on email_accounts to email_service_app;
grant update (
    account_name, email_address, address_key, protocol, hostname, port, encryption, username, is_sync_enabled,
    sync_interval, is_enabled, updated_at
) on email_accounts to email_service_app;

-- What follows is for `migrate` and for a schedule to come, and goes past the policies: over all tenants.
grant select (id, email_address, address_key, credential_id, is_enabled, updated_at), update (address_key), delete
    on email_accounts to email_service_janitor;
grant select (id), delete on email_credentials to email_service_janitor;
create policy email_accounts_janitor on email_accounts to email_service_janitor using (true) with check (true);
create policy email_credentials_janitor on email_credentials to email_service_janitor using (true) with check (true);

-- The accounts after `p_after`, in the order of their ids, whose keys `migrate` has to look at: those without one, those
-- whose key SQL may have given, and those whose key had to be made unique. They stay locked until the transaction ends.
create function accounts_to_key(p_after uuid, p_limit integer)
returns table (id uuid, email_address text, address_key text)
language plpgsql security definer
set search_path = ''
as $$
begin
    return query
        select a.id, a.email_address::text, a.address_key from public.email_accounts a
        where a.id > p_after
            and (
                a.address_key is null
                or char_length(a.email_address) <> octet_length(a.email_address)
                or right(a.address_key, 37) = ' ' || a.id
            )
        order by a.id
        limit p_limit
        for no key update;
end
$$;

-- Gives accounts their keys, and returns how many could not have theirs, for another enabled account of the same user has
-- it. Such an account stays as it is, under the key, a space and its id: nobody loses an account. It gets its key when
-- `migrate` runs after the other one is gone.
create function set_address_keys(p_ids uuid[], p_keys text[]) returns bigint
language plpgsql security definer
set search_path = ''
as $$
declare
    v_given record;
    v_taken bigint := 0;
begin
    begin
        update public.email_accounts a set address_key = given.key
        from unnest(p_ids, p_keys) as given (id, key)
        where a.id = given.id;
        return 0;
    exception when unique_violation then
        null; -- One by one, then.
    end;
    for v_given in select * from unnest(p_ids, p_keys) as given (id, key) order by given.id loop
        begin
            update public.email_accounts a set address_key = v_given.key where a.id = v_given.id;
        exception when unique_violation then
            update public.email_accounts a set address_key = v_given.key || ' ' || v_given.id where a.id = v_given.id;
            v_taken := v_taken + 1;
        end;
    end loop;
    return v_taken;
end
$$;

-- Forgets at most `p_limit` accounts that were disabled before `p_before` (epoch milliseconds), with their
-- credentials, and returns how many. Call it until it gives less than `p_limit`. Nothing changes a disabled account,
-- so updated_at is when it was disabled. V8 lets the schedule call it.
create function purge_accounts(p_before bigint, p_limit integer) returns bigint
language plpgsql security definer
set search_path = ''
as $$
declare
    v_credentials uuid[];
begin
    with purged as (
        delete from public.email_accounts a
        where a.id in (
            select old.id from public.email_accounts old
            where not old.is_enabled and old.updated_at < p_before
            order by old.updated_at
            limit p_limit
            for update skip locked
        )
        returning a.credential_id
    )
    select array_agg(purged.credential_id) into v_credentials from purged;
    delete from public.email_credentials c where c.id = any (v_credentials);
    return coalesce(cardinality(v_credentials), 0);
end
$$;

reset role;
-- As in V2: to hand functions over takes membership in the new owner, and that role's right to create. Both end here.
grant email_service_janitor to current_user;
grant create on schema public to email_service_janitor;
alter function accounts_to_key(uuid, integer) owner to email_service_janitor;
alter function set_address_keys(uuid[], text[]) owner to email_service_janitor;
alter function purge_accounts(bigint, integer) owner to email_service_janitor;
revoke execute on function
    accounts_to_key(uuid, integer), set_address_keys(uuid[], text[]), purge_accounts(bigint, integer) from public;
-- Only now: what the old owner may as such goes over to the new one.
grant execute on function
    accounts_to_key(uuid, integer), set_address_keys(uuid[], text[]) to email_service_owner;
revoke create on schema public from email_service_janitor;
revoke email_service_janitor from current_user;

-- A volatile function sees what was committed until now, and not only until the statement began: else the loser of a
-- race for the caller's own account, which the winner has deleted meanwhile, takes the caller for a stranger.
grant email_service_probe to current_user;
alter function account_owner(uuid) volatile;
revoke email_service_probe from current_user;
