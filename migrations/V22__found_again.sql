-- What was lost is found again as it was, and only what was looked for in vain is lost: of synchronised mail, and of sent.
set local lock_timeout = '5s';
set local role email_service_owner;

-- Of the messages of a POP3 mailbox that have lost their UIDs, those that the server lists again, by `p_identities`, get new ones. Their
-- flags are nowhere but here. Returns which these are, how many of them are unread, and the folder's next UID; no row where
-- the lease is lost.
create function find_again(
    p_tenant_id uuid, p_user_id uuid, p_account_id uuid, p_token bigint, p_folder_id uuid, p_identities uuid[]
)
returns table (identities uuid[], unread integer, uid_next bigint)
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
        returning m.identity, m.is_read
    )
    select coalesce(array_agg(a.identity), '{}'), count(*) filter (where not a.is_read) into identities, unread from adopted a;
    uid_next := uid_next + cardinality(identities);
    update email_folders f
    set uid_next = find_again.uid_next, stored = f.stored + cardinality(identities),
        orphans = f.orphans - cardinality(identities)
    where f.id = p_folder_id and f.tenant_id = p_tenant_id and f.user_id = p_user_id;
    return next;
end
$$;

-- As in V7, but for folders of which messages were changed from here since the worker began: what was moved there meanwhile was
-- not looked for.
create or replace function destroy_orphans(
    p_tenant_id uuid, p_user_id uuid, p_account_id uuid, p_token bigint, p_folder_ids uuid[], p_patience bigint
)
returns table (more boolean, doubt boolean)
language plpgsql rows 1
set plan_cache_mode = force_generic_plan
set jit = off
set enable_seqscan = off -- A plan that was made while the table was small is used when it is large.
as $$
declare
    -- As doubt_check knows it (V12).
    c_lease constant bigint := 120000;
    v_now constant bigint := epoch_ms();
    v_began bigint;
    v_sure uuid[];
    v_doubted uuid[];
    v_folder email_folders;
    v_ids uuid[];
    v_places uuid[];
    v_count integer;
    v_last bigint;
begin
    if not holds_lease(p_tenant_id, p_user_id, p_account_id, p_token) then
        return;
    end if;
    select a.leased_until - c_lease into v_began from email_accounts a
    where a.id = p_account_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id;
    with locked as (
        select f.*, f.orphans > f.stored and coalesce(f.doubted_at, v_now) > v_now - p_patience as is_doubted
        from email_folders f
        where f.id = any (p_folder_ids) and f.account_id = p_account_id
            and f.tenant_id = p_tenant_id and f.user_id = p_user_id
            and (f.touched_at < v_began) is not false
        for update
    )
    select array_agg(l.id) filter (where not l.is_doubted), array_agg(l.id) filter (where l.is_doubted)
    into v_sure, v_doubted from locked l;
    doubt := v_doubted is not null;
    if doubt then
        update email_folders f set doubted_at = v_now
        where f.id = any (v_doubted) and f.doubted_at is null and f.tenant_id = p_tenant_id and f.user_id = p_user_id;
    end if;
    select array_agg(o.id), array_agg(o.folder_id), count(*) into v_ids, v_places, v_count from (
        select m.id, m.folder_id from email_messages m
        where m.account_id = p_account_id and m.uid is null and m.folder_id = any (v_sure)
            and m.tenant_id = p_tenant_id and m.user_id = p_user_id
        limit 5000
    ) o;
    more := v_count = 5000;
    if v_count > 0 then
        delete from email_messages m
        where m.id = any (v_ids) and m.tenant_id = p_tenant_id and m.user_id = p_user_id;
        delete from email_labels l
        where l.message_id = any (v_ids) and l.tenant_id = p_tenant_id and l.user_id = p_user_id;
        v_last := next_numbers(p_tenant_id, p_user_id, v_count);
        insert into email_destroyed (tenant_id, user_id, number, type, id, account_id, destroyed_at)
        select p_tenant_id, p_user_id, v_last - o.nth + 1, 'message', o.id, p_account_id, v_now
        from unnest(v_ids) with ordinality as o (id, nth);
    end if;
    update email_folders f
    set orphans = case when more then f.orphans - coalesce(d.count, 0) else 0 end,
        -- A doubt that was confirmed holds for the rest of them.
        doubted_at = case when more then f.doubted_at end
    from unnest(v_sure) as s (id)
    left join (select p.id, count(*)::integer as count from unnest(v_places) as p (id) group by p.id) d using (id)
    where f.id = s.id and f.tenant_id = p_tenant_id and f.user_id = p_user_id
        and (f.orphans > 0 or f.doubted_at is not null);
    if not more then
        for v_folder in
            select f.* from email_folders f
            where f.id = any (v_sure) and f.is_gone and f.tenant_id = p_tenant_id and f.user_id = p_user_id
        loop
            if v_folder.is_label then
                with lost as (
                    delete from email_labels l
                    where l.tenant_id = p_tenant_id and l.user_id = p_user_id and l.folder_id = v_folder.id
                        and l.message_id in (
                            select o.message_id from email_labels o where o.folder_id = v_folder.id limit 5000
                        )
                    returning l.message_id
                )
                select array_agg(message_id), count(*) into v_ids, v_count from lost;
                perform renumber_messages(p_tenant_id, p_user_id, v_ids);
                more := v_count = 5000;
                exit when more;
            end if;
            delete from email_folders f
            where f.id = v_folder.id and f.tenant_id = p_tenant_id and f.user_id = p_user_id;
            v_last := next_numbers(p_tenant_id, p_user_id, 1);
            insert into email_destroyed (tenant_id, user_id, number, type, id, account_id, destroyed_at)
            values (p_tenant_id, p_user_id, v_last, 'folder', v_folder.id, p_account_id, v_now);
        end loop;
    end if;
    return next;
end
$$;

-- As in V7; where somebody was rung for it meanwhile, or it became due, what he wants is still to be looked at.
create or replace function finish_sync(
    p_tenant_id uuid, p_user_id uuid, p_account_id uuid, p_token bigint, p_more boolean, p_complete boolean,
    p_state text, p_failures integer, p_pause bigint, p_code text, p_message text, p_service text
)
returns boolean
language plpgsql
as $$
declare
    v_now constant bigint := epoch_ms();
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    update email_accounts a
    set leased_until = null,
        rung_at = case when p_more then v_now end,
        sync_requested_at = case when p_more then a.sync_requested_at end,
        sync_started_at = case when p_more then a.sync_started_at end,
        last_sync_at = case when p_complete then v_now else a.last_sync_at end,
        next_sync_at = case
            when p_pause is not null and p_code is null and not p_more
                and (a.rung_at is not null or a.next_sync_at <= v_now)
            then v_now
            else v_now + p_pause
        end,
        state = p_state, failures = p_failures,
        state_changed_at = case when a.state <> p_state then v_now else a.state_changed_at end,
        last_error_code = p_code, last_error_message = p_message, last_error_service = p_service,
        last_error_at = case when p_code is not null then v_now end
    where a.id = p_account_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.lease_token = p_token
        and a.is_enabled;
    return found;
end
$$;

-- Of what its user has had tried again although nobody knew what had become of it: the places of those of whom that was so each time. A
-- copy in the sent folder may be of any of these attempts.
alter table email_outbox add column doubted integer[];
grant update (doubted) on email_outbox to email_service_app;

-- As in V19, and remembers that.
create or replace function retry_outgoing(p_tenant_id uuid, p_user_id uuid, p_id uuid)
returns table (is_done boolean, entry email_outbox)
language plpgsql rows 1
as $$
declare
    v_now constant bigint := epoch_ms();
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    update email_outbox o
    set status = 'queued', tried_since = null, next_attempt_at = v_now, due_at = v_now, ring_at = v_now + 60000,
        -- Who looks for it in the sent folder finds another attempt's by now.
        leased_until = null, lease_token = o.lease_token + 1, dot_at = null, doubtful = '{}', looks = 0,
        deaths = 0,
        doubted = case
            when o.status = 'uncertain' and o.doubted is not null
            then array(select unnest(o.doubted) intersect select unnest(o.doubtful))
            when o.status = 'uncertain' then o.doubtful
            else o.doubted
        end
    from email_accounts a
    where o.id = p_id and o.tenant_id = p_tenant_id and o.user_id = p_user_id and o.status in ('failed', 'uncertain')
        and a.id = o.account_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled
    returning o.* into entry;
    is_done := found;
    if found and cardinality((entry).uploads) > 0 then
        perform use_uploads(p_tenant_id, p_user_id, p_id, array(
            select u.id from email_uploads u
            where u.id = any ((entry).uploads) and u.tenant_id = p_tenant_id and u.user_id = p_user_id
                and (u.unused_since is null or u.unused_since > v_now - unused_uploads_last())
            order by u.id
            for no key update
        ));
    elsif not found then
        entry := find_outgoing(p_tenant_id, p_user_id, p_id);
        if (entry).id is null then
            return;
        end if;
    end if;
    return next;
end
$$;

reset role;
