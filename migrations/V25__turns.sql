-- What a mailbox's turn costs. PostgreSQL reads the text of each check, and of each condition of a trigger that has to do with what a statement
-- writes, once for every statement: 25 kB of checks and 11 kB of one condition, of an account whose settings no turn changes.
set local lock_timeout = '5s';
set local role email_service_owner;

-- What CHECKs of V2, V5 and V6 have held an account to, for statements that write what they look at. As there, null is none of the faults.
create function check_settings() returns trigger
language plpgsql
as $$
declare
    v_fault constant text := case
        when new.account_name = '' or new.account_name <> btrim(new.account_name) then 'account_name'
        when char_length(new.email_address) not between 3 and 254 or new.email_address !~ '^.{1,64}@.{3,}$' then 'email_address'
        when new.address_key !~ '^.+@[^@]+\.[^@]+$' or char_length(new.address_key) > 512 then 'address_key'
        when new.protocol not in ('imap', 'pop3') then 'protocol'
        when char_length(new.hostname) not between 1 and 253 or new.hostname ~ '[ @/_]' then 'hostname'
        when new.port not between 1 and 65535 then 'port'
        when new.encryption not in ('tls', 'starttls', 'none') then 'encryption'
        when new.username = '' then 'username'
        when new.account_name || new.email_address || new.hostname || new.username ~ '[\u0001-\u001f\u007f-\u009f]' then 'control'
        when new.sync_interval not between 60 and 3600 then 'sync_interval'
        when new.auth_type not in ('password', 'oauth2') then 'auth_type'
        when char_length(new.smtp_hostname) not between 1 and 253 or new.smtp_hostname ~ '[ @/_\u0001-\u001f\u007f-\u009f]'
            or new.smtp_port not between 1 and 65535 or new.smtp_encryption not in ('tls', 'starttls', 'none')
            or new.smtp_username = '' or new.smtp_username ~ '[\u0001-\u001f\u007f-\u009f]' then 'smtp'
    end;
begin
    if v_fault is not null then
        raise check_violation using
            message = format('an account with a fault in its settings: %s', v_fault),
            table = 'email_accounts', constraint = format('email_accounts_%s_check', v_fault);
    end if;
    return new;
end
$$;
create trigger email_accounts_settings before insert or update of
    account_name, email_address, address_key, protocol, hostname, port, encryption, username, sync_interval, auth_type,
    smtp_hostname, smtp_port, smtp_encryption, smtp_username
on email_accounts for each row
execute function check_settings();

alter table email_accounts
    drop constraint email_accounts_account_name_check,
    drop constraint email_accounts_account_name_trim_check,
    drop constraint email_accounts_email_address_check,
    drop constraint email_accounts_email_address_form_check,
    drop constraint email_accounts_address_key_check,
    drop constraint email_accounts_protocol_check,
    drop constraint email_accounts_hostname_check,
    drop constraint email_accounts_hostname_form_check,
    drop constraint email_accounts_port_check,
    drop constraint email_accounts_encryption_check,
    drop constraint email_accounts_username_check,
    drop constraint email_accounts_control_check,
    drop constraint email_accounts_sync_interval_check,
    drop constraint email_accounts_auth_type_check,
    drop constraint email_accounts_smtp_check,
    -- The same of these two, in fewer words: a turn's end writes them.
    drop constraint email_accounts_state_check,
    add constraint email_accounts_state_check check (
        state = any ('{new,connected,authenticationError,connectError,credentialsMissing}')
    ) not valid,
    drop constraint email_accounts_last_error_check,
    add constraint email_accounts_last_error_check check (
        num_nulls(last_error_code, last_error_message, last_error_service, last_error_at) = any ('{0,4}')
        and last_error_code = any ('{authentication,unreachable,tls,protocol,unavailable,mailboxMissing,consentRevoked}')
        and last_error_service = any ('{imap,pop3,smtp,oauth2}')
    ) not valid;

-- As in V21, of what users set; and of what became of it, where no number was taken for the other already.
drop trigger email_accounts_update on email_accounts;
create trigger email_accounts_update before update of
    account_name, email_address, protocol, hostname, port, encryption, username, is_sync_enabled, sync_interval, is_enabled,
    smtp_hostname, smtp_port, smtp_encryption, smtp_username, auth_type, provider
on email_accounts for each row
when (
    (
        old.account_name, old.email_address, old.protocol, old.hostname, old.port, old.encryption, old.username,
        old.is_sync_enabled, old.sync_interval, old.is_enabled, old.smtp_hostname, old.smtp_port, old.smtp_encryption,
        old.smtp_username, old.auth_type, old.provider
    ) is distinct from (
        new.account_name, new.email_address, new.protocol, new.hostname, new.port, new.encryption, new.username,
        new.is_sync_enabled, new.sync_interval, new.is_enabled, new.smtp_hostname, new.smtp_port, new.smtp_encryption,
        new.smtp_username, new.auth_type, new.provider
    )
)
execute function number_account();
-- Of two triggers the one with the smaller name comes first.
create trigger email_accounts_update_state before update of
    state, last_error_code, last_error_message, last_error_service
on email_accounts for each row
when (
    new.changed_number = old.changed_number
    and (old.state, old.last_error_code, old.last_error_message, old.last_error_service)
        is distinct from (new.state, new.last_error_code, new.last_error_message, new.last_error_service)
)
execute function number_account();

-- As in V16, for statements that write what it looks at: the note before the last dot writes none of it.
drop trigger email_outbox_update on email_outbox;
create trigger email_outbox_update before update of
    status, attempts, next_attempt_at, response, recipients, sent_at
on email_outbox for each row
when (
    (old.status, old.attempts, old.next_attempt_at, old.response, old.recipients, old.sent_at)
        is distinct from (new.status, new.attempts, new.next_attempt_at, new.response, new.recipients, new.sent_at)
)
execute function number_outgoing();

-- As in V12, and what V7 did at the begin of a turn: the UIDs of another mailbox say nothing in this one.
create or replace function forget_hidden() returns trigger
language plpgsql
as $$
begin
    delete from email_hidden h
    where h.account_id = new.id and h.tenant_id = new.tenant_id and h.user_id = new.user_id;
    if new.synced_with <> old.synced_with then
        update email_folders f set uid_validity = null
        where f.account_id = new.id and f.tenant_id = new.tenant_id and f.user_id = new.user_id;
    end if;
    return null;
end
$$;

-- As in V7, by one statement less where the account is taken, and by an assignment for a query.
create or replace function begin_sync(p_tenant_id uuid, p_user_id uuid, p_id uuid, p_lease bigint)
returns table (outcome text, account email_accounts, sealed_password bytea, folder email_folders)
language plpgsql
as $$
declare
    v_now constant bigint := epoch_ms();
    v_context constant text :=
        set_config('app.tenant_id', p_tenant_id::text, true) || set_config('app.user_id', p_user_id::text, true);
begin
    update email_accounts a
    set leased_until = v_now + p_lease, lease_token = a.lease_token + 1, rung_at = null,
        -- Where this is another mailbox than the last one, what was known of that one is forgotten (forget_hidden).
        synced_with = concat_ws(' ', a.protocol, a.hostname, a.username),
        sync_started_at = coalesce(a.sync_started_at, v_now),
        -- Should the worker not end, the next one comes with the end of its lease.
        next_sync_at = v_now + p_lease
    where a.id = p_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled
        and coalesce(a.leased_until <= v_now, a.rung_at is not null)
    returning a.* into account;
    if not found then
        select case when a.leased_until > v_now then 'busy' else 'idle' end into outcome
        from email_accounts a
        where a.id = p_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled;
        outcome := coalesce(outcome, 'none');
        return next;
        return;
    end if;
    outcome := 'begun';
    select c.sealed_password into sealed_password from email_credentials c
    where c.id = (account).credential_id and c.tenant_id = p_tenant_id and c.user_id = p_user_id;
    return next;
    outcome := 'folder';
    account := null;
    sealed_password := null;
    for folder in
        select * from email_folders f
        where f.account_id = p_id and f.tenant_id = p_tenant_id and f.user_id = p_user_id
    loop
        return next;
    end loop;
end
$$;

-- As begin_sync, in columns of what a worker reads, folders first: each of their values is looked for by its name. What a statement says is
-- read anew each time, and so many words of it took PostgreSQL longer than to look for the account.
create function begin_turn(p_tenant_id uuid, p_user_id uuid, p_id uuid, p_lease bigint)
returns table (
    outcome text, folder_id uuid, wire_name bytea, path text, delimiter text, role text, is_selectable boolean,
    is_label boolean, is_gone boolean, total integer, unread integer, uid_validity bigint, uid_next bigint,
    modseq bigint, is_complete boolean, stored integer, orphans integer, doubted_at bigint, checked_at bigint,
    suspects text, suspicions integer, sealed_password bytea, id uuid, tenant_id uuid, user_id uuid,
    account_name varchar, email_address varchar, protocol varchar, hostname varchar, port integer, encryption varchar,
    username varchar, credential_id uuid, is_sync_enabled boolean, sync_interval integer, last_sync_at bigint,
    is_enabled boolean, created_at bigint, updated_at bigint, smtp_hostname varchar, smtp_port integer,
    smtp_encryption varchar, smtp_username varchar, auth_type varchar, provider varchar, state varchar,
    state_changed_at bigint, failures smallint, next_sync_at bigint, last_error_code varchar,
    last_error_message varchar, last_error_service varchar, last_error_at bigint, sync_requested_at bigint,
    leased_until bigint, lease_token bigint
)
language plpgsql
as $$
begin
    return query select
        b.outcome, (b.folder).id, (b.folder).wire_name, (b.folder).path, (b.folder).delimiter, (b.folder).role,
        (b.folder).is_selectable, (b.folder).is_label, (b.folder).is_gone, (b.folder).total, (b.folder).unread,
        (b.folder).uid_validity, (b.folder).uid_next, (b.folder).modseq, (b.folder).is_complete, (b.folder).stored,
        (b.folder).orphans, (b.folder).doubted_at, (b.folder).checked_at, (b.folder).suspects, (b.folder).suspicions,
        b.sealed_password, (b.account).id, (b.account).tenant_id, (b.account).user_id, (b.account).account_name,
        (b.account).email_address, (b.account).protocol, (b.account).hostname, (b.account).port,
        (b.account).encryption, (b.account).username, (b.account).credential_id, (b.account).is_sync_enabled,
        (b.account).sync_interval, (b.account).last_sync_at, (b.account).is_enabled, (b.account).created_at,
        (b.account).updated_at, (b.account).smtp_hostname, (b.account).smtp_port, (b.account).smtp_encryption,
        (b.account).smtp_username, (b.account).auth_type, (b.account).provider, (b.account).state,
        (b.account).state_changed_at, (b.account).failures, (b.account).next_sync_at, (b.account).last_error_code,
        (b.account).last_error_message, (b.account).last_error_service, (b.account).last_error_at,
        (b.account).sync_requested_at, (b.account).leased_until, (b.account).lease_token
    from begin_sync(p_tenant_id, p_user_id, p_id, p_lease) b;
end
$$;

reset role;
