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
        select array_agg(f.identity order by a.nth), array_agg(f.received_at order by a.nth),
            array_agg(
                (f.is_read::integer + 2 * f.is_flagged::integer + 4 * f.is_answered::integer + 8 * f.is_draft::integer)::smallint
                order by a.nth
            )
        from asked a
        left join alike l
            on a.identity is null and l.received_at = a.received_at and l.size = a.size and l.copies >= a.copies
        left join lateral (
            select m.identity, m.received_at, m.is_read, m.is_flagged, m.is_answered, m.is_draft from email_messages m
            where m.account_id = p_account_id and m.uid is null and m.identity = coalesce(a.identity, l.identity)
                and m.tenant_id = p_tenant_id and m.user_id = p_user_id
            limit 1
        ) f on true;
end
$$;

reset role;
