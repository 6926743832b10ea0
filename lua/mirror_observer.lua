redis.register_function('penstock_mirror_observer', function(keys, args) return Call.run('mirror_observer', keys, args) end)
