-- What is meant is what is changed: by whoever is quicker, whoever asks twice, and in which mailbox.
set local lock_timeout = '5s';
set local role email_service_owner;

-- UIDs are those of the mailbox that they were told of. Another one has others from the moment that it is named, and not only when
-- it is synchronised: who reads or changes a message meanwhile would get a stranger's.
create function forget_uids() returns trigger
language plpgsql
as $$
begin
    update email_folders f set uid_validity = null
    where f.account_id = new.id and f.tenant_id = new.tenant_id and f.user_id = new.user_id and f.uid_validity is not null;
    return null;
end
$$;
create trigger email_accounts_uids after update of protocol, hostname, username on email_accounts for each row
when ((old.protocol, old.hostname, old.username) is distinct from (new.protocol, new.hostname, new.username))
execute function forget_uids();
grant update (uid_validity) on email_folders to email_service_app;

-- As in V22, but what is listed with another size is another message. A size of 0 says nothing.
create function find_again(
    p_tenant_id uuid, p_user_id uuid, p_account_id uuid, p_token bigint, p_folder_id uuid, p_identities uuid[],
    p_sizes bigint[]
)
returns table (identities uuid[], uid_next bigint)
language plpgsql rows 1
set plan_cache_mode = force_generic_plan
set enable_seqscan = off -- As in V7.
as $$
begin
    if not holds_lease(p_tenant_id, p_user_id, p_account_id, p_token) then
        return;
    end if;
    select f.uid_next into uid_next from email_folders f
    where f.id = p_folder_id and f.account_id = p_account_id and f.tenant_id = p_tenant_id and f.user_id = p_user_id
    for no key update;
    -- In another mailbox the same ids may be other messages: these are looked for nowhere.
    update email_messages m set identity = gen_random_uuid()
    from unnest(p_identities, p_sizes) as listed (identity, size)
    where m.account_id = p_account_id and m.uid is null and m.identity = listed.identity and m.size <> listed.size
        and m.size > 0 and listed.size > 0 and m.folder_id = p_folder_id and m.tenant_id = p_tenant_id and m.user_id = p_user_id;
    with known as (
        -- What was here twice is destroyed but for the first.
        select k.id, row_number() over (order by k.created_number) as nth from (
            select distinct on (m.identity) m.id, m.created_number from email_messages m
            where m.account_id = p_account_id and m.uid is null and m.identity = any (p_identities)
                and m.folder_id = p_folder_id and m.tenant_id = p_tenant_id and m.user_id = p_user_id
            order by m.identity, m.created_number
        ) k
    ),
    adopted as (
        update email_messages m set uid = find_again.uid_next + k.nth - 1 from known k
        where m.id = k.id and m.tenant_id = p_tenant_id and m.user_id = p_user_id
        returning m.identity
    )
    select coalesce(array_agg(a.identity), '{}') into identities from adopted a;
    uid_next := uid_next + cardinality(identities);
    update email_folders f
    set uid_next = find_again.uid_next, stored = f.stored + cardinality(identities),
        orphans = f.orphans - cardinality(identities)
    where f.id = p_folder_id and f.tenant_id = p_tenant_id and f.user_id = p_user_id;
    return next;
end
$$;

-- How many messages of a POP3 mailbox are unread, counted while nobody can change them, and noted. False where the lease is lost.
create function count_unread(p_tenant_id uuid, p_user_id uuid, p_account_id uuid, p_token bigint, p_folder_id uuid)
returns boolean
language plpgsql
as $$
declare
    v_unread integer;
    v_number bigint;
begin
    if not holds_lease(p_tenant_id, p_user_id, p_account_id, p_token) then
        return false;
    end if;
    v_unread := (
        select count(*) from email_messages m
        where m.folder_id = p_folder_id and m.uid is not null and not m.is_read
            and m.tenant_id = p_tenant_id and m.user_id = p_user_id
    );
    if exists (
        select from email_folders f
        where f.id = p_folder_id and f.unread <> v_unread and f.tenant_id = p_tenant_id and f.user_id = p_user_id
    ) then
        v_number := next_numbers(p_tenant_id, p_user_id, 1);
        update email_folders f set unread = v_unread, changed_number = v_number
        where f.id = p_folder_id and f.tenant_id = p_tenant_id and f.user_id = p_user_id;
    end if;
    return true;
end
$$;

-- As in V12. Of `p_bits`, four bits higher, which of them count, for those whose server has none; none of these are all of them.
create or replace function apply_actions(
    p_tenant_id uuid, p_user_id uuid, p_account_id uuid,
    p_ids uuid[], p_from uuid[], p_from_uids bigint[], p_bits smallint[],
    p_to uuid[], p_to_validities bigint[], p_to_uids bigint[], p_kept boolean[], p_destroyed boolean[],
    p_added uuid[], p_removed uuid[], p_hides boolean, p_is_due boolean
)
returns setof email_messages
language plpgsql
as $$
declare
    v_now constant bigint := epoch_ms();
    v_counts jsonb;
    v_old email_messages;
    v_new email_messages;
    v_other uuid;
    v_is_there boolean;
    v_is_due boolean := p_is_due;
    v_gone uuid[] := '{}';
    v_folders uuid[];
    v_first bigint;
    v_last bigint;
    v_named smallint;
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    perform from email_accounts a
    where a.id = p_account_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled
    for no key update;
    if not found then
        return;
    end if;
    -- As all who write messages: numbers first, and then rows. Nobody else gets one until all that were given here are noted.
    v_first := next_numbers(p_tenant_id, p_user_id, 0);
    v_last := v_first;
    v_counts := (
        select jsonb_object_agg(f.id, jsonb_build_array(f.total, f.unread)) from email_folders f
        where f.account_id = p_account_id and f.tenant_id = p_tenant_id and f.user_id = p_user_id
    );
    perform count_messages(p_tenant_id, p_user_id, p_account_id, p_ids, -1);
    for n in 1 .. cardinality(p_ids) loop
        select * into v_old from email_messages m
        where m.id = p_ids[n] and m.account_id = p_account_id and m.tenant_id = p_tenant_id and m.user_id = p_user_id;
        continue when not found;
        v_is_there := v_old.folder_id = p_from[n] and (v_old.uid is null or v_old.uid = p_from_uids[n]);
        if v_is_there and p_destroyed[n] then
            v_new := v_old;
            v_new.folder_id := shown_in(p_tenant_id, p_user_id, v_old);
            return next v_new;
            if p_hides then
                insert into email_hidden (tenant_id, user_id, account_id, identity)
                values (p_tenant_id, p_user_id, p_account_id, v_old.identity)
                on conflict do nothing;
            end if;
            delete from email_labels l
            where l.message_id = v_old.id and l.tenant_id = p_tenant_id and l.user_id = p_user_id;
            delete from email_messages m
            where m.id = v_old.id and m.tenant_id = p_tenant_id and m.user_id = p_user_id;
            v_gone := v_gone || v_old.id;
            continue;
        end if;
        v_new := v_old;
        if p_bits[n] is not null then
            v_named := coalesce(nullif(p_bits[n] >> 4, 0), 7);
            v_new.is_read := case when v_named & 1 <> 0 then p_bits[n] & 1 <> 0 else v_old.is_read end;
            v_new.is_flagged := case when v_named & 2 <> 0 then p_bits[n] & 2 <> 0 else v_old.is_flagged end;
            v_new.is_answered := case when v_named & 4 <> 0 then p_bits[n] & 4 <> 0 else v_old.is_answered end;
        end if;
        if v_is_there and p_to[n] is not null then
            v_new.folder_id := p_to[n];
            -- Below the folder's cursor a worker may be fetching it just now, as one that is missing: it then knows it by its
            -- identity, as the next one does where its UID was not told.
            v_new.uid := (
                select p_to_uids[n] from email_folders f
                where f.id = p_to[n] and f.uid_validity = p_to_validities[n] and not f.is_label
                    and f.tenant_id = p_tenant_id and f.user_id = p_user_id
                    and (
                        p_to_uids[n] >= f.uid_next
                        or exists (
                            select from email_messages m
                            where m.folder_id = p_to[n] and m.uid = p_to_uids[n]
                                and m.tenant_id = p_tenant_id and m.user_id = p_user_id
                        )
                    )
            );
            v_is_due := v_is_due or v_new.uid is null;
            -- A worker has seen it there before we could say which one it is.
            for v_other in
                select m.id from email_messages m
                where m.folder_id = v_new.folder_id and m.uid = v_new.uid and m.id <> v_old.id
                    and m.tenant_id = p_tenant_id and m.user_id = p_user_id
            loop
                if v_other <> all (p_ids) then
                    perform count_messages(p_tenant_id, p_user_id, p_account_id, array[v_other], -1);
                end if;
                delete from email_labels l
                where l.message_id = v_other and l.tenant_id = p_tenant_id and l.user_id = p_user_id;
                delete from email_messages m
                where m.id = v_other and m.tenant_id = p_tenant_id and m.user_id = p_user_id;
                v_gone := v_gone || v_other;
            end loop;
            delete from email_labels l
            where l.message_id = v_old.id and l.tenant_id = p_tenant_id and l.user_id = p_user_id;
        end if;
        if v_new is distinct from v_old or v_is_there and coalesce(p_added[n], p_removed[n]) is not null then
            v_last := v_last + 1;
            update email_messages m
            set folder_id = v_new.folder_id, uid = v_new.uid, is_read = v_new.is_read, is_flagged = v_new.is_flagged,
                is_answered = v_new.is_answered, changed_number = v_last
            where m.id = v_old.id and m.tenant_id = p_tenant_id and m.user_id = p_user_id;
        end if;
        update email_labels l set is_read = v_new.is_read, is_flagged = v_new.is_flagged
        where l.message_id = v_old.id and l.tenant_id = p_tenant_id and l.user_id = p_user_id
            and (l.is_read, l.is_flagged) is distinct from (v_new.is_read, v_new.is_flagged);
        if v_is_there then
            delete from email_labels l
            where l.message_id = v_old.id and l.folder_id = p_removed[n]
                and l.tenant_id = p_tenant_id and l.user_id = p_user_id;
            if p_added[n] is not null then
                insert into email_labels (tenant_id, user_id, folder_id, message_id, received_at, is_read, is_flagged)
                values (
                    p_tenant_id, p_user_id, p_added[n], v_old.id, v_old.received_at, v_new.is_read, v_new.is_flagged
                )
                on conflict do nothing;
            end if;
        end if;
        if v_is_there and p_to[n] is not null and p_kept[n] then
            -- The server has it twice by now, and this is the one that stayed.
            v_last := v_last + 1;
            v_old.id := gen_random_uuid();
            v_old.created_number := v_last;
            v_old.changed_number := v_last;
            v_old.is_read := v_new.is_read;
            v_old.is_flagged := v_new.is_flagged;
            v_old.is_answered := v_new.is_answered;
            insert into email_messages select (v_old).*;
            perform count_messages(p_tenant_id, p_user_id, p_account_id, array[v_old.id], 1);
        end if;
    end loop;
    perform count_messages(p_tenant_id, p_user_id, p_account_id, p_ids, 1);

    update email_folders f
    set total = greatest(f.total, 0), unread = greatest(f.unread, 0), touched_at = v_now
    where (f.id = any (p_from) or f.id = any (p_to) or f.id = any (p_added) or f.id = any (p_removed))
        and f.account_id = p_account_id and f.tenant_id = p_tenant_id and f.user_id = p_user_id;
    if v_is_due then
        update email_accounts a set next_sync_at = v_now
        where a.id = p_account_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.next_sync_at > v_now
            and a.state = 'connected';
    end if;
    v_folders := array(
        select f.id from email_folders f
        where f.account_id = p_account_id and f.tenant_id = p_tenant_id and f.user_id = p_user_id
            and jsonb_build_array(f.total, f.unread) <> v_counts -> f.id::text
    );
    insert into email_destroyed (tenant_id, user_id, number, type, id, account_id, destroyed_at)
    select p_tenant_id, p_user_id, v_last + g.nth, 'message', g.id, p_account_id, v_now
    from unnest(v_gone) with ordinality as g (id, nth);
    v_last := v_last + cardinality(v_gone);
    update email_folders f set changed_number = v_last + c.nth
    from unnest(v_folders) with ordinality as c (id, nth)
    where f.id = c.id and f.tenant_id = p_tenant_id and f.user_id = p_user_id;
    v_last := v_last + cardinality(v_folders);
    if v_last > v_first then
        perform next_numbers(p_tenant_id, p_user_id, v_last - v_first);
    end if;
    for v_new in
        select m.* from email_messages m
        where m.id = any (p_ids) and m.account_id = p_account_id and m.tenant_id = p_tenant_id and m.user_id = p_user_id
    loop
        v_new.folder_id := shown_in(p_tenant_id, p_user_id, v_new);
        return next v_new;
    end loop;
end
$$;

-- Whether a login that was refused has still to be tried once more: who asks in between takes nothing away from that.
create function is_owed(p_account email_accounts, p_state text) returns boolean
language sql immutable
return p_state = 'authenticationError' and p_account.state = p_state and p_account.next_sync_at is not null;

-- As in V6, but for that.
create or replace function record_try(
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
    set state = p_state, failures = case when is_owed(a, p_state) then a.failures else p_failures end,
        state_changed_at = case when a.state <> p_state then v_now else a.state_changed_at end,
        next_sync_at = case
            when is_owed(a, p_state) then a.next_sync_at
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

-- As in V10. Another provider's outgoing server is another one as well.
create or replace function reconnect_account(
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

    if not v_new.hostname = any (p_hosts) then
        v_new.protocol := 'imap';
        v_new.hostname := p_hostname;
        v_new.port := p_port;
        v_new.encryption := p_encryption;
    end if;
    -- The outgoing server's password may have been another, and so may have been the provider.
    if v_new.auth_type <> 'oauth2' or v_new.provider <> p_provider then
        v_new.username := p_username;
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

-- As in V19, but what is noted again is not counted again, and no shorter hold ends a longer one.
create or replace function finish_outgoing(
    p_tenant_id uuid, p_user_id uuid, p_id uuid, p_token bigint, p_status text, p_recipients text, p_doubtful integer[],
    p_response text, p_copy text, p_looks integer, p_pause bigint, p_hold bigint, p_is_untried boolean
)
returns table (is_noted boolean, is_more boolean)
language plpgsql rows 1
as $$
declare
    v_now constant bigint := epoch_ms();
    v_account_id uuid;
    v_reply_to_id uuid;
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    if p_hold is not null then
        -- Whoever locks an account does so before what belongs to it.
        perform from email_accounts a
        where a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled and a.id = (
            select o.account_id from email_outbox o
            where o.id = p_id and o.tenant_id = p_tenant_id and o.user_id = p_user_id
        )
        for no key update;
    end if;
    update email_outbox o
    set status = p_status, recipients = p_recipients, doubtful = p_doubtful, response = p_response, copy = p_copy,
        looks = p_looks, dot_at = case when p_status = 'uncertain' then o.dot_at end,
        sent_at = case when p_status = 'sent' then coalesce(o.sent_at, v_now) end,
        next_attempt_at = case when p_status = 'queued' then v_now + p_pause end,
        due_at = v_now + p_pause, ring_at = v_now + p_pause, leased_until = null, lease_token = o.lease_token + 1,
        attempts = o.attempts - p_is_untried::integer, deaths = case when p_is_untried then o.deaths else 0 end,
        tried_since = case when p_is_untried and o.attempts = 1 then null else o.tried_since end
    where o.id = p_id and o.tenant_id = p_tenant_id and o.user_id = p_user_id and o.lease_token = p_token
    returning o.account_id, o.reply_to_id into v_account_id, v_reply_to_id;
    is_noted := found;
    if not found then
        is_more := true; -- Perhaps; who asks sees.
        return next;
        return;
    end if;
    if p_pause is null and p_status in ('sent', 'rejected', 'canceled') then
        -- Its files are needed no more.
        perform use_uploads(p_tenant_id, p_user_id, p_id, '{}');
    end if;
    if p_status = 'sent' and exists (
        select from email_messages m join email_accounts a on a.id = m.account_id
        where m.id = v_reply_to_id and m.tenant_id = p_tenant_id and m.user_id = p_user_id and not m.is_answered
            and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.protocol = 'pop3'
    ) then
        -- Where a server keeps flags, the worker asks it.
        update email_messages m set is_answered = true, changed_number = next_numbers(p_tenant_id, p_user_id, 1)
        where m.id = v_reply_to_id and m.tenant_id = p_tenant_id and m.user_id = p_user_id;
    end if;
    if p_hold is not null then
        update email_accounts a set sending_held_until = greatest(a.sending_held_until, v_now + p_hold)
        where a.id = v_account_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled;
    end if;
    is_more := exists (
        select from email_outbox o
        where o.account_id = v_account_id and o.tenant_id = p_tenant_id and o.user_id = p_user_id and o.due_at <= epoch_ms()
    );
    return next;
end
$$;

-- As in V15, but for the lock.
create or replace function create_draft(
    p_tenant_id uuid, p_user_id uuid, p_id uuid, p_account_id uuid, p_reply_to_id uuid, p_forward_of_id uuid,
    p_uploads uuid[], p_content text, p_most bigint, p_key_hash bytea, p_fingerprint bytea
)
returns table (claim text, outcome text, unknown text[], id uuid, created_at bigint)
language plpgsql rows 1
as $$
declare
    v_now constant bigint := epoch_ms();
    v_claim record;
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    v_claim := claim_key(p_tenant_id, p_user_id, p_key_hash, p_fingerprint);
    claim := v_claim.claim;
    outcome := v_claim.outcome;
    id := (v_claim.made ->> 'id')::uuid;
    created_at := (v_claim.made ->> 'created_at')::bigint;
    if claim <> 'new' then
        return next;
        return;
    end if;
    -- Two at once would both find room for one.
    perform lock_addresses(p_tenant_id, p_user_id);
    unknown := unknown_references(
        p_tenant_id, p_user_id, p_account_id, p_reply_to_id, p_forward_of_id, p_uploads, null
    );
    if cardinality(unknown) > 0 then
        outcome := 'unknown';
        perform give_key_up(p_tenant_id, p_user_id, p_key_hash);
        return next;
        return;
    end if;
    if p_most <= (select count(*) from email_drafts d where d.tenant_id = p_tenant_id and d.user_id = p_user_id) then
        outcome := 'tooMany';
    else
        outcome := 'created';
        id := p_id;
        created_at := v_now;
        insert into email_drafts (
            id, tenant_id, user_id, account_id, reply_to_id, forward_of_id, content, created_at, updated_at
        )
        values (
            p_id, p_tenant_id, p_user_id, p_account_id, p_reply_to_id, p_forward_of_id, p_content, v_now, v_now
        );
        perform use_uploads(p_tenant_id, p_user_id, p_id, p_uploads);
    end if;
    perform keep_answer(
        p_tenant_id, p_user_id, p_key_hash, outcome,
        case when id is not null then jsonb_build_object('id', id, 'created_at', created_at) end
    );
    return next;
end
$$;

reset role;
