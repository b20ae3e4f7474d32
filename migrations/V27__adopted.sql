-- What is found again and cannot be read keeps what the server does not say of it either.
set local lock_timeout = '5s';
set local role email_service_owner;

-- As in V26, and when each was received here, and its flags as p_bits of store_batch.
drop function find_orphans(uuid, uuid, uuid, bigint, uuid[], bigint[], bigint[]);
create function find_orphans(
    p_tenant_id uuid, p_user_id uuid, p_account_id uuid, p_token bigint, p_identities uuid[], p_received bigint[],
    p_sizes bigint[]
)
returns table (identities uuid[], received bigint[], bits smallint[])
language plpgsql rows 1
set plan_cache_mode = force_generic_plan
set jit = off
set enable_seqscan = off -- As in V7, and hence `offset 0` as there.
set enable_bitmapscan = off
as $$
begin
    if not holds_lease(p_tenant_id, p_user_id, p_account_id, p_token) then
        return;
    end if;
    return query
        with asked as (
            select a.*, count(*) over (partition by a.received_at, a.size) as copies
            from unnest(p_identities, p_received, p_sizes) with ordinality as a (identity, received_at, size, nth)
        ),
        alike as (
            select m.received_at, m.size, (array_agg(m.identity))[1] as identity, count(*) as copies
            from (select distinct a.received_at from asked a where a.identity is null) t
            -- A whole mailbox may be without UIDs. Of one moment there are few.
            cross join lateral (
                select o.account_id, o.uid, o.identity, o.received_at, o.size from email_messages o
                where o.user_id = p_user_id and o.received_at = t.received_at and o.tenant_id = p_tenant_id
                offset 0
            ) m
            where m.account_id = p_account_id and m.uid is null
            group by m.received_at, m.size
            having count(distinct m.identity) = 1
        )
        select array_agg(f.identity order by a.nth), array_agg(f.received_at order by a.nth), array_agg(f.bits order by a.nth)
        from asked a
        left join alike l
            on a.identity is null and l.received_at = a.received_at and l.size = a.size and l.copies >= a.copies
        cross join lateral (
            -- Of copies that are known by the same, what is true of all.
            select (array_agg(m.identity))[1] as identity, min(m.received_at) as received_at,
                (bool_and(m.is_read)::integer + 2 * bool_and(m.is_flagged)::integer + 4 * bool_and(m.is_answered)::integer
                    + 8 * bool_and(m.is_draft)::integer)::smallint as bits
            from email_messages m
            where m.account_id = p_account_id and m.uid is null and m.identity = coalesce(a.identity, l.identity)
                and m.tenant_id = p_tenant_id and m.user_id = p_user_id
        ) f;
end
$$;

-- As in V7, but that a folder whose name is only written in another way, since UTF-8 was agreed on or is no longer, stays the same.
create or replace function store_folders(
    p_tenant_id uuid, p_user_id uuid, p_account_id uuid, p_token bigint,
    p_ids uuid[], p_wire_names bytea[], p_paths text[], p_delimiters text[], p_roles text[], p_selectable boolean[],
    p_labels boolean[]
)
returns setof email_folders
language plpgsql
as $$
declare
    v_last bigint;
begin
    if not holds_lease(p_tenant_id, p_user_id, p_account_id, p_token) then
        return;
    end if;
    v_last := next_numbers(p_tenant_id, p_user_id, cardinality(p_ids));
    with listed as (
        select (array_agg(l.wire_name))[1] as wire_name, l.path from unnest(p_wire_names, p_paths) as l (wire_name, path)
        group by l.path
        having count(*) = 1
    ),
    known as (
        select (array_agg(f.id))[1] as id, f.path from email_folders f
        where f.account_id = p_account_id and f.tenant_id = p_tenant_id and f.user_id = p_user_id
        group by f.path
        having count(*) = 1
    )
    update email_folders f set wire_name = l.wire_name
    from known k join listed l using (path)
    where f.id = k.id and f.tenant_id = p_tenant_id and f.user_id = p_user_id and not f.is_gone
        and f.wire_name <> l.wire_name
        and not exists (
            select from email_folders o
            where o.account_id = p_account_id and o.wire_name = l.wire_name and o.tenant_id = p_tenant_id
                and o.user_id = p_user_id
        );
    -- A name whose folder is just gone may be another's next time: roles and paths follow the list.
    insert into email_folders as f (
        id, tenant_id, user_id, account_id, wire_name, path, delimiter, role, is_selectable, is_label, created_number,
        changed_number
    )
    select l.id, p_tenant_id, p_user_id, p_account_id, l.wire_name, l.path, l.delimiter, l.role, l.is_selectable,
        l.is_label, v_last - l.nth + 1, v_last - l.nth + 1
    from unnest(p_ids, p_wire_names, p_paths, p_delimiters, p_roles, p_selectable, p_labels)
        with ordinality as l (id, wire_name, path, delimiter, role, is_selectable, is_label, nth)
    on conflict (account_id, wire_name) do update
    set path = excluded.path, delimiter = excluded.delimiter, role = excluded.role,
        is_selectable = excluded.is_selectable, is_label = excluded.is_label, is_gone = false,
        -- What was known of it was known of the other kind.
        uid_validity = case when f.is_label = excluded.is_label then f.uid_validity end,
        changed_number = excluded.changed_number
    where (f.path, f.delimiter, f.role, f.is_selectable, f.is_label, f.is_gone)
        is distinct from
        (excluded.path, excluded.delimiter, excluded.role, excluded.is_selectable, excluded.is_label, false);
    update email_folders f set is_gone = true, uid_validity = null
    where f.account_id = p_account_id and f.tenant_id = p_tenant_id and f.user_id = p_user_id and not f.is_gone
        and f.wire_name <> all (p_wire_names);
    return query
        select f.* from email_folders f
        where f.account_id = p_account_id and f.tenant_id = p_tenant_id and f.user_id = p_user_id;
end
$$;

reset role;
