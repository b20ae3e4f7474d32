-- What is done to messages: where they are, for those who visit the mailbox.
set local lock_timeout = '5s';
set local role email_service_owner;

-- Where messages are, and what it takes to go there, for the mail functions' role. Of those that are not the user's, or
-- whose account is deleted, there is no row. `kind`: `account`, each once, with its sealed password, and `wait`, how many
-- milliseconds must pass before the next try where the server has refused this login; `folder`, those that messages lie in,
-- those that are their labels, `p_folder_id`, and of each account those that have a role; `message`. A try of a refused login
-- is noted.
create function locate_messages(p_tenant_id uuid, p_user_id uuid, p_ids uuid[], p_folder_id uuid)
returns table (
    kind text, account email_accounts, sealed_password bytea, wait bigint,
    id uuid, account_id uuid, folder_id uuid,
    wire_name bytea, path text, role text, is_selectable boolean, is_label boolean, uid_validity bigint,
    uid bigint, identity uuid, size bigint, is_read boolean, is_flagged boolean, is_answered boolean, labels uuid[]
)
language plpgsql
as $$
declare
    v_now constant bigint := epoch_ms();
    v_accounts uuid[];
    v_folders uuid[];
    v_account email_accounts;
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    select array_agg(distinct m.account_id), array_agg(distinct m.folder_id) into v_accounts, v_folders
    from email_messages m
    where m.id = any (p_ids) and m.tenant_id = p_tenant_id and m.user_id = p_user_id;
    kind := 'account';
    for v_account in
        select * from email_accounts a
        where a.id = any (v_accounts) and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled
        order by a.id
    loop
        account := v_account;
        account_id := v_account.id;
        wait := case
            when v_account.state <> 'authenticationError' then 0
            else greatest(0, coalesce(v_account.tried_at, 0) + 60000 - v_now)
        end;
        if wait = 0 and v_account.state = 'authenticationError' then
            update email_accounts a set tried_at = v_now
            where a.id = v_account.id and a.tenant_id = p_tenant_id and a.user_id = p_user_id;
        end if;
        select c.sealed_password into sealed_password from email_credentials c
        where c.id = v_account.credential_id and c.tenant_id = p_tenant_id and c.user_id = p_user_id;
        return next;
    end loop;
    return query
        select 'folder', null::email_accounts, null::bytea, null::bigint, f.id, f.account_id, f.id,
            f.wire_name, f.path, f.role, f.is_selectable and not f.is_gone, f.is_label, f.uid_validity,
            null::bigint, null::uuid, null::bigint, null::boolean, null::boolean, null::boolean, null::uuid[]
        from email_folders f
        where f.account_id = any (v_accounts) and f.tenant_id = p_tenant_id and f.user_id = p_user_id
            and (
                f.id = any (v_folders) or f.id = p_folder_id or f.role is not null
                or f.id in (
                    select l.folder_id from email_labels l
                    where l.message_id = any (p_ids) and l.tenant_id = p_tenant_id and l.user_id = p_user_id
                )
            );
    return query
        select 'message', null::email_accounts, null::bytea, null::bigint, m.id, m.account_id, m.folder_id,
            null::bytea, null::text, null::text, null::boolean, null::boolean, null::bigint,
            m.uid, m.identity, m.size, m.is_read, m.is_flagged, m.is_answered,
            array(
                select l.folder_id from email_labels l
                where l.message_id = m.id and l.tenant_id = p_tenant_id and l.user_id = p_user_id
                order by l.folder_id
            )
        from email_messages m join email_accounts a on a.id = m.account_id
        where m.id = any (p_ids) and m.tenant_id = p_tenant_id and m.user_id = p_user_id
            and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled;
end
$$;

-- Messages that a user has deleted here and that a server goes on to list: POP3, where nothing is ever deleted.
create table email_hidden (
    tenant_id  uuid not null,
    user_id    uuid not null,
    account_id uuid not null,
    -- As of email_messages. No foreign key: what is hidden is forgotten when its account is deleted.
    identity   uuid not null,
    primary key (account_id, identity)
);
alter table email_hidden enable row level security;
alter table email_hidden force row level security;
create policy email_hidden_scope on email_hidden using (
    tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid)
    and user_id = (select nullif(current_setting('app.user_id', true), '')::uuid)
) with check (
    tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid)
    and user_id = (select nullif(current_setting('app.user_id', true), '')::uuid)
);

-- What was hidden was so in one mailbox: in another one the same ids may be other messages.
create function forget_hidden() returns trigger
language plpgsql
as $$
begin
    delete from email_hidden h
    where h.account_id = new.id and h.tenant_id = new.tenant_id and h.user_id = new.user_id;
    return null;
end
$$;
create trigger email_accounts_hidden after update on email_accounts for each row
when (old.synced_with <> new.synced_with or old.is_enabled and not new.is_enabled)
execute function forget_hidden();

-- What is hidden of a mailbox, for the worker that synchronises it; no row where the lease is lost.
create function hidden_messages(p_tenant_id uuid, p_user_id uuid, p_account_id uuid, p_token bigint)
returns table (identities uuid[])
language plpgsql rows 1
as $$
begin
    if not holds_lease(p_tenant_id, p_user_id, p_account_id, p_token) then
        return;
    end if;
    identities := array(
        select h.identity from email_hidden h
        where h.account_id = p_account_id and h.tenant_id = p_tenant_id and h.user_id = p_user_id
    );
    return next;
end
$$;

alter table email_folders add column touched_at bigint;
comment on column email_folders.touched_at is 'When somebody last changed messages of it from here.';

-- A worker that was comparing all flags while some were changed from here may have read them before and write them
-- afterwards. It has not compared them all, then, and the next one does. As long as a lease lasts, at the most.
create function doubt_check() returns trigger
language plpgsql
as $$
begin
    new.checked_at := null;
    return new;
end
$$;
create trigger email_folders_checked before update of checked_at on email_folders for each row
when (new.checked_at is distinct from old.checked_at and new.touched_at > new.checked_at - 120000)
execute function doubt_check();

-- Counts messages of an account, `p_by` is 1 or -1, in the folders that they lie in and in those that are their labels.
create function count_messages(p_tenant_id uuid, p_user_id uuid, p_account_id uuid, p_ids uuid[], p_by integer) returns void
language plpgsql
as $$
begin
    update email_folders f
    set total = f.total + p_by * c.total, unread = f.unread + p_by * c.unread, stored = f.stored + p_by * c.stored,
        orphans = f.orphans + p_by * (c.lying - c.stored)
    from (
        select p.folder_id, count(*) as total, count(*) filter (where not m.is_read) as unread,
            count(*) filter (where p.folder_id = m.folder_id) as lying,
            count(m.uid) filter (where p.folder_id = m.folder_id) as stored
        from email_messages m
        cross join lateral (
            select m.folder_id
            union
            select l.folder_id from email_labels l
            where l.message_id = m.id and l.tenant_id = p_tenant_id and l.user_id = p_user_id
        ) p
        where m.id = any (p_ids) and m.account_id = p_account_id
            and m.tenant_id = p_tenant_id and m.user_id = p_user_id
        group by p.folder_id
    ) c
    where f.id = c.folder_id and f.account_id = p_account_id and f.tenant_id = p_tenant_id and f.user_id = p_user_id;
end
$$;

-- The folder that a message is shown in: at Gmail the first of its labels, as list_messages has it. In PL/pgSQL, which plans once
-- for a connection what SQL would plan for each message.
create function shown_in(p_tenant_id uuid, p_user_id uuid, p_message email_messages) returns uuid
language plpgsql stable
as $$
begin
    return coalesce((
        select l.folder_id from email_labels l join email_folders f on f.id = l.folder_id
        where l.message_id = p_message.id and l.tenant_id = p_tenant_id and l.user_id = p_user_id
            and f.tenant_id = p_tenant_id and f.user_id = p_user_id
        order by coalesce(array_position('{inbox,sent,drafts}'::text[], f.role), 4), l.folder_id
        limit 1
    ), p_message.folder_id);
end
$$;

-- What became of messages of one account on their server, or at POP3 what is to be so here, now here. Of each, by its place in
-- the arrays: where it was, a folder and a UID; then the bits of its flags (1 read, 2 flagged, 4 answered), the folder that it
-- went to with the UIDVALIDITY and the UID that it has there, whether it stayed where it was as well, whether it was
-- destroyed, and the labels that it got and lost; null where there is no such thing. `p_hides`: what is destroyed is not to come
-- back, although the server lists it. `p_is_due`: what is on the server is not what is here, and somebody has to look soon.
--
-- Returns the messages as they are now, with the folders that they are shown in; of destroyed ones, as they were.
--
-- The account's row keeps workers off meanwhile: they share it. What came of the same message in the mean time stays: it may
-- have been found in its new place already, or in another one.
create function apply_actions(
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
            v_new.is_read := p_bits[n] & 1 <> 0;
            v_new.is_flagged := p_bits[n] & 2 <> 0;
            v_new.is_answered := p_bits[n] & 4 <> 0;
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

grant select, insert, delete on email_hidden to email_service_mail;
-- To forget it with the account.
grant select (tenant_id, user_id, account_id), delete on email_hidden to email_service_app;

reset role;
